"""A judge for opo's reward "http" (OpenRLHF's shape): python3 server.py [PORT]; 0: any free one"""
import http.server, json, sys

from compute_score_example import compute_score


class Judge(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answers = [query[len(prompt):] for query, prompt in zip(asked["query"], asked["prompts"])]
        judged = [compute_score("", a, gold) for a, gold in zip(answers, asked["labels"])]
        body = json.dumps({"rewards": [j["score"] for j in judged],
                           "extra_logs": {"characters": [len(a) for a in answers]}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


port = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Judge)
print(f"http://127.0.0.1:{server.server_port}/", flush=True)
server.serve_forever()
