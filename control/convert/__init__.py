"""Other meshes' documents as policies: Gateway API's HTTPRoute, Istio's VirtualService, DestinationRule, ServiceEntry. Pure."""
