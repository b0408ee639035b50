# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server whose answers are a function: in this process, or called like ``transformers serve``.

python tests/support/fake_server.py serve MODEL --host 127.0.0.1 --port 8000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ("red", "blue", "seven", "twelve", "because", "sum", "apple", "not", "maybe", "river", "cloud", "zero")
NEARLY_GREEDY = 0.05


@dataclass
class Behavior:
    """What the server does.

    Attributes:
        answer: from the request's body to text, or to (HTTP status, text of the body[, headers]) if it is no answer.
        models: names that ``/v1/models`` lists, optionally as ``name=directory``.
        takes_tokens: ``/v1/completions`` accepts token ids.
        finish: ``finish_reason`` of every answer.
        refuses: request fields that are answered with status 400; other unknown fields are ignored.
        ids: from the body and the text of an answer to its token ids; ``ids_field`` requests them.
        ids_field: ``return_token_ids`` as in vLLM, or ``detokenize`` as in TensorRT-LLM, which then sends no text.
        extra: from the body and the text to more fields of the choice.
        usage: from the body and the text to ``usage``.
        streams: chats are always answered with a stream, one chunk per word, as by transformers 4.57.
        facts: what ``/v1/models`` says about every model besides its name.
        requests: bodies received so far.
    """

    answer: Callable[[dict[str, Any]], str | tuple]
    models: list[str] = field(default_factory=list)
    takes_tokens: bool = False
    finish: str = "stop"
    refuses: Collection[str] = ()
    ids: Callable[[dict[str, Any], str], list[int]] | None = None
    ids_field: str = "return_token_ids"
    extra: Callable[[dict[str, Any], str], dict[str, Any]] = lambda body, text: {}
    usage: Callable[[dict[str, Any], str], dict[str, int] | None] = lambda body, text: None
    streams: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)

    def choice(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        """Return the fields of the one choice, except for the answer itself."""
        known = {"index": 0, "finish_reason": self.finish, "logprobs": None, **self.extra(body, text)}
        wanted = body.get("detokenize") is False if self.ids_field == "detokenize" else body.get(self.ids_field)
        return known | ({"token_ids": self.ids(body, text)} if self.ids is not None and wanted else {})


def words_of(body: dict[str, Any]) -> str:
    """Return a few words as a function of prompt, seed and temperature; greedy at temperatures near 0."""
    what = [body.get("messages"), body.get("prompt")]
    if body["temperature"] > NEARLY_GREEDY:
        what += [body["temperature"], body["seed"]]
    digest = hashlib.blake2b(json.dumps(what).encode(), digest_size=6).digest()
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest)


def answers_in(body: dict[str, Any]) -> list[str]:
    """Return the two answers to compare, found by boundaries with the code that the reminder names."""
    text = body["messages"][0]["content"]
    code = re.findall(r"the code of its boundaries was ([0-9a-f]{16})\.", text)[-1]
    parts = re.split(rf"^===== {code} (.*) =====\n", text, flags=re.MULTILINE)
    named = dict(zip(parts[1::2], parts[2::2], strict=True))
    return [named[f"answer {name}"].removesuffix("\n") for name in "AB"]


def verdict_of(body: dict[str, Any]) -> str:
    """Return the verdict of a judge that prefers the longer answer; equal lengths are a tie."""
    first, second = map(len, answers_in(body))
    winner = "tie" if first == second else "A" if first > second else "B"
    return f"I looked at both.\n<verdict>{winner}</verdict>"


class Server(ThreadingHTTPServer):
    """Accepts many connections at once."""

    request_queue_size = 128
    daemon_threads = True


@contextmanager
def fake_server(behavior: Behavior) -> Iterator[str]:
    """Yield the base URL of a server that runs during the block."""
    server = Server(("127.0.0.1", 0), handler_of(behavior))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def handler_of(behavior: Behavior) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            cards = [name.partition("=")[::2] for name in behavior.models]
            always = {"object": "model", "created": time.time_ns(), "owned_by": "us", **behavior.facts}
            models = [{"id": name} | always | ({"root": root} if root else {}) for name, root in cards]
            self.reply(200, json.dumps({"object": "list", "data": models}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            behavior.requests.append(body)
            if "prompt" in body and not behavior.takes_tokens:
                self.reply(422, json.dumps({"error": {"message": "prompt must be a string"}}))
                return
            if unknown := [name for name in behavior.refuses if name in body]:
                self.reply(400, json.dumps({"error": {"message": f"Extra inputs are not permitted: {unknown}"}}))
                return
            answer = behavior.answer(body)
            if isinstance(answer, tuple):
                self.reply(*answer)
            elif "prompt" in body or not (behavior.streams or body.get("stream")):
                self.reply(200, json.dumps(self.whole(body, answer)))
            else:
                self.reply(200, "".join(self.events(answer)), {"Content-Type": "text/event-stream"})

        def whole(self, body: dict[str, Any], answer: str) -> dict[str, Any]:
            choice, usage = behavior.choice(body, answer), behavior.usage(body, answer)
            shown = None if "token_ids" in choice and behavior.ids_field == "detokenize" else answer
            if "prompt" in body:
                kind, choice["text"] = "text_completion", shown or ""
            else:
                kind, choice["message"] = "chat.completion", {"role": "assistant", "content": shown}
            head = {"id": "1", "object": kind, "created": 0, "model": body["model"], "choices": [choice]}
            return head | ({} if usage is None else {"usage": usage})

        def events(self, answer: str) -> Iterator[str]:
            words = re.findall(r"\S*\s*", answer)
            deltas = [({"role": "assistant", "content": word}, None) for word in words] + [({}, behavior.finish)]
            for delta, finish in deltas:
                choice = {"index": 0, "delta": delta, "finish_reason": finish}
                chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
                yield f"data: {json.dumps(chunk)}\n\n"
            yield "data: [DONE]\n\n"

        def reply(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
            content = text.encode()
            self.send_response(status)
            sent = {"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {})
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Log nothing."""

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--judge", action="store_true", help="answer with verdicts")
    parser.add_argument("--words", type=int, help="answer with this many equal words")
    parser.add_argument("--streams", action="store_true", help="always stream, one chunk per word")
    parser.add_argument("--seconds", type=float, default=0.0, help="time that an answer takes")
    arguments = parser.parse_args()
    answer = verdict_of if arguments.judge else words_of

    def slowly(body: dict[str, Any]) -> str:
        time.sleep(arguments.seconds)
        return answer(body) if arguments.words is None else "word " * arguments.words

    behavior = Behavior(slowly, models=[arguments.model], streams=arguments.streams)
    Server((arguments.host, arguments.port), handler_of(behavior)).serve_forever()


if __name__ == "__main__":
    main()
