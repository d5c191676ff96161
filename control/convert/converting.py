"""From the foreign documents of some files to ours, with a report of what was left out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from control.convert import gateway_api, istio_route, istio_rule
from control.convert.building import Draft, claimable, named_by
from control.convert.fields import UNKNOWN, Fields, Origin, Report
from control.convert.istio_route import Context, host_key
from control.convert.istio_rule import Rule
from control.policy.errors import Problem
from control.policy.places import field_text
from control.policy.reading import Document
from control.policy.validating import validated
from control.policy.yaml_nodes import Tree

DEFAULT_PORT = 80
_GATEWAY, _ISTIO = "gateway.networking.k8s.io", "networking.istio.io"
_VERSIONS = {_GATEWAY: ("v1", "v1beta1"), _ISTIO: ("v1", "v1beta1", "v1alpha3")}
_ROUTE, _SERVICE, _RULE, _ENTRY = "HTTPRoute", "VirtualService", "DestinationRule", "ServiceEntry"
_KINDS = {_GATEWAY: (_ROUTE,), _ISTIO: (_SERVICE, _RULE, _ENTRY)}
_IRRELEVANT = {_GATEWAY: ("Gateway", "GatewayClass", "ReferenceGrant"), _ISTIO: ("Gateway",)}
"""They say where traffic comes in, and who may name whom: neither is a question here."""


@dataclass(frozen=True)
class Converted:
    documents: list[Document]
    report: Report

    @property
    def notes(self) -> list[Problem]:
        """What was taken for granted, each once."""
        first: dict[str, Problem] = {}
        for note in self.report.notes:
            first.setdefault(note.message, note)
        return list(first.values())


@dataclass(frozen=True)
class _Foreign:
    group: str
    kind: str
    name: str
    namespace: str
    created: str
    fields: Fields

    def spec(self) -> Fields:
        return self.fields.part("spec")


def convert(trees: Iterable[tuple[Tree, str]], port: int = DEFAULT_PORT) -> Converted:
    """The documents of foreign ones, each with the file that it stands in. `port`: where none is said."""
    report = Report()
    found = [foreign for tree, file in trees for foreign in _read(tree, file, report)]
    rules: dict[str, Rule] = {}
    for each in found:
        if each.kind in (_RULE, _ENTRY):
            _rule(each, rules, port)
    routes = [
        route
        for each in found
        if each.kind == _ROUTE
        and (route := gateway_api.read_route(each.spec(), each.name, each.created)) is not None
    ]
    drafts = gateway_api.documents(routes)
    used: set[str] = set()
    for each in found:
        if each.kind == _SERVICE:
            draft = istio_route.convert(each.spec(), each.name, Context(rules, each.namespace, port))
            used |= {host_key(host, each.namespace) for host in draft.hosts}
            drafts.append(draft)
    routed = [rules[key] for key in used if key in rules]
    for number, rule in enumerate(rules.values()):
        if rule not in routed and rule not in list(rules.values())[:number]:
            drafts.append(_of_rule(rule, port))
    return Converted(list(_documents(drafts, report)), report)


def _read(tree: Tree, file: str, report: Report) -> Iterable[_Foreign]:
    """The documents in a tree that can be converted; a List is those in it."""
    root = tree.root
    for line, path, text in tree.problems:
        # What is null in Kubernetes is not there.
        if not text.startswith("no value"):
            report.lost.append(Problem(file, line, "", field_text(path), text))
    items = (
        root["items"]
        if str(root["kind"]).endswith("List") and isinstance(root.get("items"), list)
        else [root]
    )
    for item in items:
        if isinstance(item, Mapping) and isinstance(item.get("kind"), str):
            yield from _one(item, file, report)


def _one(data: Any, file: str, report: Report) -> Iterable[_Foreign]:
    group, _, version = str(data.get("apiVersion", "")).rpartition("/")
    kind, metadata = data["kind"], data.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name, namespace = str(metadata.get("name") or "unnamed"), str(metadata.get("namespace") or "default")
    origin = Origin(report, file, getattr(data, "line", 1), f"{kind}/{name}")
    fields = Fields(data, origin)
    fields.take("apiVersion", "kind", "metadata", "status")
    if kind in _IRRELEVANT.get(group, ()):
        return
    if kind not in _KINDS.get(group, ()):
        policy = group.endswith((".k8s.io", "istio.io")) or "networking" in group
        (fields.lose if policy else fields.note)((), f"{group or 'core'}: {UNKNOWN}")
        return
    if version not in _VERSIONS[group]:
        known = ", ".join(_VERSIONS[group])
        fields.lose(("apiVersion",), f"{version} is not known: known are {known}")
        return
    foreign = _Foreign(group, kind, name, namespace, str(metadata.get("creationTimestamp") or ""), fields)
    yield foreign


def _rule(each: _Foreign, rules: dict[str, Rule], port: int) -> None:
    spec = each.spec()
    said = [spec.text("host") or ""] if each.kind == _RULE else spec.texts("hosts")
    hosts = []
    for host in said:
        try:
            hosts.append(claimable(host))
        except ValueError as error:
            spec.lose(("host" if each.kind == _RULE else "hosts",), f"{host}: {error}")
    origin = each.fields.origin
    if not hosts:
        spec.take(*spec.names())
        return
    key = host_key(hosts[0], each.namespace)
    rule = rules.setdefault(key, Rule(hosts[0], origin.file, origin.line))
    for host in hosts:
        rules.setdefault(host_key(host, each.namespace), rule)
    rule.hosts = list(dict.fromkeys([*rule.hosts, *hosts]))
    if each.kind == _RULE:
        istio_rule.read_destination_rule(spec, rule)
    else:
        istio_rule.read_service_entry(spec, rule, port)


def _of_rule(rule: Rule, port: int) -> Draft:
    """A host with a rule and without routes: all its versions together."""
    draft = Draft(named_by(rule.hosts, rule.host), rule.hosts, file=rule.file, line=rule.line)
    draft.settings |= rule.settings
    rule.addresses(draft, port)
    return draft


def _documents(drafts: Iterable[Draft], report: Report) -> Iterable[Document]:
    seen: dict[str, int] = {}
    for draft in drafts:
        number = seen[draft.service] = seen.get(draft.service, 0) + 1
        if number > 1:
            draft.service = f"{draft.service}-{number}"
        data = draft.data()
        policy, wrong = validated(data)
        if policy is None:
            for _, path, text in wrong:
                where = f"{draft.service}: {field_text(path)}"
                report.lost.append(Problem(draft.file, draft.line, where, "", f"cannot be converted: {text}"))
        else:
            yield Document(policy, draft.file, draft.line, data)
