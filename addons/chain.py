"""The order of the mesh's features, here and nowhere else."""

from addons.access_log import AccessLog
from addons.authorization import Authorization
from addons.backstop import Backstop
from addons.certificates import Certificates
from addons.circuit_breaker import CircuitBreaker
from addons.cors import Cors
from addons.direct_answers import DirectAnswers
from addons.faults import Faults
from addons.forwarder import Forwarder
from addons.limits import Limits
from addons.load_balancing import LoadBalancing
from addons.metrics import Metrics
from addons.metrics_pages import MetricsPages
from addons.mirror import Mirror
from addons.mtls import Mtls
from addons.passthrough import Passthrough
from addons.picking import Picking
from addons.policy_feed import PolicyFeed
from addons.rate_limit import RateLimit
from addons.refused import Refused
from addons.registration import Registration
from addons.retry import Retry
from addons.rewrite import Rewrite
from addons.routing import Routing
from addons.sendable import Sendable
from addons.sticky import StickySplits
from addons.wellformed import Wellformed


def ahead() -> list[object]:
    """What stands before all addons, mitmproxy's own and the user's."""
    return [
        Wellformed(),  # before anybody reads in a request what may be read in two ways
    ]


def chain() -> list[object]:
    """New features in the order of a request's life."""
    certificates = Certificates()
    feed, metrics, balancing = PolicyFeed(), Metrics(), LoadBalancing()
    mtls = Mtls(feed, certificates)
    authorization = Authorization()
    routing = Routing(authorization=authorization)
    rate_limit = RateLimit(feed)
    breaking = CircuitBreaker(balancing)
    limits = Limits()
    retry = Retry()
    forwarder = Forwarder(Picking(balancing, breaking, limits), mtls.outbound, retry)
    mirror = Mirror(forwarder)
    metrics.more += [rate_limit.counts, mirror.counts, mtls.refusals.counts]
    feed.reports["traffic"] = metrics.summary
    feed.reports["identity"] = certificates.report
    metrics.gauges.append(certificates.gauges)
    feed.reports["breakers"] = breaking.report
    return [
        MetricsPages(
            metrics, feed, forwarder
        ),  # first, so that health is told without a policy, and nowhere logged
        feed,  # pins the snapshot that all below look at
        Refused(feed),  # after the feed too: pins what the engine refuses, for log and metrics
        certificates,  # after the options of the feed, before all that opens connections: who this proxy is
        mtls,  # knows by that who is at the other end of a connection, before anything comes over it
        Registration(
            feed, certificates
        ),  # after both: tells callers where this proxy is, once it has a policy
        authorization,  # asked by the routing, as soon as it knows which rules stand
        routing,  # decides the service and route; nothing below works without
        StickySplits(),  # what the routing has chosen for a user is told with the answer, whoever makes it
        rate_limit,  # before all that answers or sends, so that nothing escapes it
        Cors(),  # a browser's question gets its answer before a fixed one; the answers of all below get their headers
        DirectAnswers(),  # where no service is called, nothing else need be done
        Rewrite(),  # last of those that act once the route is known: the rest goes by what the caller wrote
        Passthrough(routing, forwarder, mtls),  # takes what cannot be buffered, before its body is read
        Faults(),  # beneath retry: acts on each attempt before it goes out
        retry,  # judges each attempt's outcome, a fault's included
        breaking,  # after retry and faults: what these make of an attempt is its outcome
        limits,  # after retry, which says whether an attempt is followed by a pause
        balancing,  # after retry: notes which attempts are over, and which are not the last
        mirror,  # before what waits for the answer; what is answered by now has no copy
        forwarder,  # runs the attempts, asking those above
        Backstop(),  # after all that sends: what is left over goes nowhere
        Sendable(),  # after all addons that may spoil an answer, before it is logged and counted
        AccessLog(),  # after all that answers, so that it tells the final answer
        metrics,  # last: the log has noted whether the client left
    ]
