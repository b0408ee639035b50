# SPDX-License-Identifier: Apache-2.0
"""A server with OpenAI's interface whose answers are a function: in this process, or called like transformers' own.

python tests/support/fake_server.py serve MODEL --host 127.0.0.1 --port 8000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ("red", "blue", "seven", "twelve", "because", "sum", "apple", "not", "maybe", "river", "cloud", "zero")


@dataclass
class Behaviour:
    """What the server does.

    Attributes:
        answer: from the request's body to text, or (HTTP status, text of the body) for anything that is not an answer.
        models: names that ``/v1/models`` lists.
        takes_tokens: ``/v1/completions`` accepts token ids.
        finish: ``finish_reason`` of every answer.
        streams: chats are answered with an event stream, a chunk a word, even where none was asked for.
        facts: what ``/v1/models`` says about every model besides its name.
        requests: bodies so far.
    """

    answer: Callable[[dict[str, Any]], str | tuple[int, str]]
    models: list[str] = field(default_factory=list)
    takes_tokens: bool = False
    finish: str = "stop"
    streams: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)


def words_of(body: dict[str, Any]) -> str:
    """A few words, a function of prompt, seed and temperature; greedy at temperature 0."""
    what = [body.get("messages"), body.get("prompt")]
    if body["temperature"] > 0:
        what += [body["temperature"], body["seed"]]
    digest = hashlib.blake2b(json.dumps(what).encode(), digest_size=6).digest()
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest)


def answers_in(body: dict[str, Any]) -> list[str]:
    """The two answers that a judge is asked to compare, by the boundaries with the code that the reminder names."""
    text = body["messages"][0]["content"]
    code = re.findall(r"the code of its boundaries was ([0-9a-f]{16})\.", text)[-1]
    parts = re.split(rf"^===== {code} (.*) =====\n", text, flags=re.MULTILINE)
    named = dict(zip(parts[1::2], parts[2::2], strict=True))
    return [named[f"answer {name}"].removesuffix("\n") for name in "AB"]


def verdict_of(body: dict[str, Any]) -> str:
    """A judge that likes the longer answer; of equally long ones, none."""
    first, second = map(len, answers_in(body))
    winner = "tie" if first == second else "A" if first > second else "B"
    return f"I looked at both.\n<verdict>{winner}</verdict>"


class Server(ThreadingHTTPServer):
    """Room for many connections at once."""

    request_queue_size = 128
    daemon_threads = True


@contextmanager
def fake_server(behaviour: Behaviour) -> Iterator[str]:
    """Its base URL, for the length of a block."""
    server = Server(("127.0.0.1", 0), handler_of(behaviour))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def handler_of(behaviour: Behaviour) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            always = {"object": "model", "created": time.time_ns(), "owned_by": "us", **behaviour.facts}
            models = [{"id": name, **always} for name in behaviour.models]
            self.reply(200, json.dumps({"object": "list", "data": models}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            behaviour.requests.append(body)
            if "prompt" in body and not behaviour.takes_tokens:
                self.reply(422, json.dumps({"error": {"message": "prompt must be a string"}}))
                return
            answer = behaviour.answer(body)
            if isinstance(answer, tuple):
                self.reply(*answer)
            elif "prompt" in body:
                choice = {"index": 0, "text": answer, "finish_reason": behaviour.finish, "logprobs": None}
                head = {"id": "1", "object": "text_completion", "created": 0, "model": "m"}
                self.reply(200, json.dumps(head | {"choices": [choice]}))
            elif behaviour.streams or body.get("stream"):
                self.reply(200, "".join(self.events(answer)), "text/event-stream")
            else:
                choice = {"index": 0, "message": {"role": "assistant", "content": answer}}
                head = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
                self.reply(200, json.dumps(head | {"choices": [choice | {"finish_reason": behaviour.finish}]}))

        def events(self, answer: str) -> Iterator[str]:
            words = re.findall(r"\S*\s*", answer)
            deltas = [({"role": "assistant", "content": word}, None) for word in words] + [({}, behaviour.finish)]
            for delta, finish in deltas:
                choice = {"index": 0, "delta": delta, "finish_reason": finish}
                chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
                yield f"data: {json.dumps(chunk)}\n\n"
            yield "data: [DONE]\n\n"

        def reply(self, status: int, text: str, kind: str = "application/json") -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--judge", action="store_true", help="answer with verdicts")
    parser.add_argument("--words", type=int, help="answer with so many, always the same")
    parser.add_argument("--streams", action="store_true", help="a chunk a word, even to those who ask for none")
    parser.add_argument("--seconds", type=float, default=0.0, help="that an answer takes")
    arguments = parser.parse_args()
    answer = verdict_of if arguments.judge else words_of

    def slowly(body: dict[str, Any]) -> str:
        time.sleep(arguments.seconds)
        return answer(body) if arguments.words is None else "word " * arguments.words

    behaviour = Behaviour(slowly, models=[arguments.model], streams=arguments.streams)
    Server((arguments.host, arguments.port), handler_of(behaviour)).serve_forever()


if __name__ == "__main__":
    main()
