"""A bucket on 127.0.0.1 that speaks as much of Google Cloud Storage's JSON API as TensorStore asks for.

Uploads are whole or absent, carry a generation, and honour `ifGenerationMatch`, as the real ones do. TensorStore finds
it through `TENSORSTORE_GCS_HTTP_URL`; as a program it prints its address and serves until its input ends.
"""

import json
import os
import re
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OBJECT = re.compile(r"/(?:upload/)?storage/v1/b/([^/]+)/o(?:/(.*))?")


class Bucket(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects, self.lock, self.generation, self.requests = {}, threading.Lock(), 0, 0

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self):
        return {**os.environ, **VARIABLES, "TENSORSTORE_GCS_HTTP_URL": self.address}


# Without a token TensorStore looks for credentials on the machine and on the network.
VARIABLES = {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "token", "TENSORSTORE_GCS_HTTP_VERSION": "1.1"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = 1 << 16, True  # Headers and content in one packet, at once.

    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def describe(self, name, generation, content):
        fields = {"name": name, "generation": str(generation), "size": str(len(content)), "bucket": "bucket"}
        return json.dumps(fields).encode()

    def handle_one(self):
        url = urllib.parse.urlsplit(self.path)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(url.query).items()}
        match = OBJECT.fullmatch(url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if match is None:
            return self.answer(404)
        name = urllib.parse.unquote(match.group(2) or "")
        with self.server.lock:
            self.server.requests += 1
            return self.with_object(name or query.get("name", ""), bool(name), query, body)

    def with_object(self, name, named, query, body):
        objects = self.server.objects
        generation, content = objects.get(name, (0, b""))
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != generation:
            return self.answer(412)
        if query.get("ifGenerationNotMatch") == str(generation):
            return self.answer(304)
        if self.command == "POST":
            self.server.generation += 1
            objects[name] = (self.server.generation, body)
            return self.answer(200, self.describe(name, self.server.generation, body), Content_Type="application/json")
        if self.command == "GET" and not named:
            return self.list_objects(query)
        if name not in objects:
            return self.answer(404)
        if self.command == "DELETE":
            del objects[name]
            return self.answer(204)
        if query.get("alt") != "media":
            return self.answer(200, self.describe(name, generation, content), Content_Type="application/json")
        return self.answer(200, content, x_goog_generation=str(generation))

    def list_objects(self, query):
        start, end, prefix = query.get("startOffset", ""), query.get("endOffset"), query.get("prefix", "")
        names = [
            name for name in sorted(self.server.objects)
            if name >= start and (end is None or name < end) and name.startswith(prefix)
        ]  # fmt: skip
        items = [json.loads(self.describe(name, *self.server.objects[name])) for name in names]
        return self.answer(200, json.dumps({"items": items}).encode(), Content_Type="application/json")

    do_GET = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815  The names that the server looks for.

    def log_message(self, *arguments):
        pass


if __name__ == "__main__":
    with Bucket() as bucket:
        print(bucket.address, flush=True)
        threading.Thread(target=bucket.serve_forever, daemon=True).start()
        sys.stdin.read()
