"""What carries bytes: HTTP/1.1, connection pools, hook dispatch. Knows no policy and never imports `control`.

Every wait is one future: no task, coroutine or time-out object is made for a request on a pooled connection.
"""
