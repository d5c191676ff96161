"""Who is who in a mesh: names, certificates, the authority that signs them. Never imports mitmproxy."""
