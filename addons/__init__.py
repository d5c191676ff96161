"""The data plane of mitmesh: one mitmproxy addon per mesh feature, over an engine that carries bytes."""
