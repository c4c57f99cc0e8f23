"""The OpenAPI document is true, and the page is served whole."""

import re

from tingdao import app, errors


def test_openapi_lists_every_route_that_speaks_json(client):
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/admin/add-server",
        "/admin/drain-server",
        "/admin/keys",
        "/admin/load-model",
        "/admin/reload-model",
        "/admin/remove-server",
        "/admin/resume-server",
        "/admin/status",
        "/admin/unload-model",
        "/api/v1/tickets",
        "/api/v1/transcribe",
        "/api/v1/usage",
        "/health",
        "/ready",
        "/v1/audio/transcriptions",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{name}",
    }
    assert "HTTPValidationError" not in str(document["paths"])


def test_openapi_describes_the_forms_as_they_are_checked(client):
    paths = client.get("/openapi.json").json()["paths"]
    for path, required in (("/api/v1/transcribe", []), ("/v1/audio/transcriptions", ["model"])):
        schema = paths[path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert schema.get("required", []) == required
        assert schema["oneOf"] == [{"required": ["file"]}, {"required": ["url"]}]
        assert schema["additionalProperties"] is False
        assert schema["properties"]["file"]["format"] == "binary"


def test_openapi_describes_errors_as_they_are_answered(client):
    document = client.get("/openapi.json").json()
    for path, answer in (
        ("/api/v1/transcribe", client.post("/api/v1/transcribe")),
        ("/v1/audio/transcriptions", client.post("/v1/audio/transcriptions")),
    ):
        reference = document["paths"][path]["post"]["responses"]["400"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        assert set(answer.json()) == set(schema["properties"])


def test_every_file_of_the_page_is_served_and_nothing_else(client):
    html = client.get("/").text
    for name in re.findall(r'(?:href|src)="([\w.]+)"', html):
        assert client.get(f"/{name}").status_code == 200, name
    for file in app.PAGE.iterdir():
        assert client.get(f"/{file.name}").status_code == 200
    for path in ("/../app.py", "/%2e%2e/app.py", "/web/app.js", "/app.py"):
        assert client.get(path).json()["error"]["code"] == errors.NotFound.code
