"""Requests made by hand, for tests that want to see or hold back each message."""


def scope_of(path, content_type, *more):
    """The scope of a POST. more: further headers."""
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", content_type.encode()), *more],
        "server": ("test", 80),
        "client": ("127.0.0.1", 1),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }
