"""Who is named is told what came out: through a block, a webhook and e-mail, to real servers on this machine."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from conftest import Project
from pictures import FIRST, GROWN, draw
from pydantic import ValidationError
from test_flows import ask

from aigc_tasks.schedule import Schedule
from aigc_tasks.servers import free_port

SECRETS = {name: f"secret{uuid.uuid4().hex}" for name in ("hook", "chat", "wrong", "dead")}


class Team(http.server.ThreadingHTTPServer):
    """A web server of people who hear what is posted, and may kill who posts it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hooks)
        self.heard: list[tuple[str, dict[str, str]]] = []
        self.victims: list[subprocess.Popen[str]] = []


class Hooks(http.server.BaseHTTPRequestHandler):
    server: Team

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.heard.append((self.path, json.loads(text)))
        if self.path == "/dripping":
            return self.answer_for_ever()
        while self.server.victims:
            self.server.victims.pop().kill()
        self.send_response(200)
        self.end_headers()

    def answer_for_ever(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(10**9))
        self.end_headers()
        with suppress(OSError):
            while self.wfile.write(b"."):
                time.sleep(0.5)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def team() -> Iterator[Team]:
    with Team() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def mailbox() -> Iterator[tuple[int, list[Any]]]:
    """A mail server's port, and what it was sent."""
    from aiosmtpd.controller import Controller
    from aiosmtpd.handlers import Message

    letters: list[Any] = []

    class Kept(Message):
        def handle_message(self, message: Any) -> None:
            letters.append(message)

    server = Controller(Kept(), hostname="127.0.0.1", port=free_port(0))
    server.start()
    yield server.port, letters
    server.stop()


BLOCK = """
from prefect.blocks.notifications import CustomWebhookNotificationBlock
CustomWebhookNotificationBlock(
    name="team", url="http://127.0.0.1:{port}/block", secrets={{"key": "{secret}"}},
    json_data={{"subject": "{{{{subject}}}}", "body": "{{{{body}}}}", "key": "{{{{key}}}}"}},
).save("team")
"""


@pytest.mark.slow
def test_a_decision_and_a_failure_are_told_and_nothing_else(
    trained: Project, team: Team, mailbox: tuple[int, list[Any]]
) -> None:
    """Killed while it tells the first of them, the next start tells all."""
    port, heard, (smtp, letters) = team.server_port, team.heard, mailbox
    trained.check("python", "-c", BLOCK.format(port=port, secret=SECRETS["hook"]))
    trained.env |= {
        "TEAM_CHAT": f"json://me:{SECRETS['chat']}@127.0.0.1:{port}/chat",
        "TEAM_MAIL": f"mailto://127.0.0.1:{smtp}?from=pipeline@example.org&to=team@example.org&mode=insecure",
        "DEAD": f"json://me:{SECRETS['dead']}@127.0.0.1:9/",
        "WRONG": SECRETS["wrong"],
    }
    notify = ["custom-webhook/team", "$TEAM_CHAT", "$TEAM_MAIL", "$DEAD", "$WRONG", "$UNSET", "slack-webhook/nobody"]

    def compete(params: Any) -> None:
        params["recipes"]["digits-gan"] |= {"product": "numbers", "schedule": {"notify": notify}}
        params["products"] = {"numbers": {"gate": {"at_most": {"fid_ratio": 500.0}}}}

    trained.edit(compete)
    draw(trained.path / "pictures", range(FIRST, GROWN))
    killed = trained.start("aigc", "retrain", "digits-gan")
    team.victims.append(killed)
    killed.communicate()
    assert [path for path, _ in heard] == ["/block"]
    heard.clear()
    done = trained.run("aigc", "retrain", "digits-gan")
    assert done.returncode == 0, done.stderr

    assert [path for path, _ in heard] == ["/block", "/chat"]
    (_, block), (_, chat) = heard
    assert block["subject"] == chat["title"] == "digits-gan: Promoted"
    assert block["key"] == SECRETS["hook"]
    (letter,) = letters
    assert letter["Subject"] == "digits-gan: Promoted"
    body = block["body"]
    assert f"digits has grown: {GROWN - FIRST} images new, 0 gone" in body
    assert "numbers version 1 (digits-gan) is the champion: it meets every criterion" in body
    assert "better than the champion" in body
    assert "\nfid_ratio  " in body
    newest = max(trained.runs(), key=lambda one: one.info.start_time).info.run_id
    assert f"MLflow: run {newest}" in body
    assert f"Prefect: {trained.env['PREFECT_API_URL'].removesuffix('/api')}/runs/flow-run/" in body

    said = done.stdout + done.stderr
    for whom, why in (("$DEAD", "it could not be sent"), ("$UNSET", "not set"), ("slack-webhook/nobody", "no such")):
        assert f"{whom} was not told: " in said
        assert why in said
    logged = [line["message"] for line in ask(trained.env["PREFECT_API_URL"], "/logs/filter", {"limit": 200})]
    kept = trained.check("git", "log", "--patch", "--all")
    for secret in SECRETS.values():
        assert secret not in said + kept + "".join(logged)

    assert "nothing has changed" in trained.check("aigc", "retrain", "digits-gan")
    assert len(heard) == 2, "of a start that did nothing nobody is told"
    shutil.rmtree(trained.path / "pictures")
    assert trained.run("aigc", "retrain", "digits-gan").returncode == 1
    assert [one["title"] for path, one in heard if path == "/chat"] == ["digits-gan: Promoted", "digits-gan: Failed"]
    assert "pictures: no such folder or file" in heard[-1][1]["message"]


@pytest.mark.slow
def test_who_never_ends_to_answer_holds_nobody_up(trained: Project, team: Team) -> None:
    dripping, chat = (f"json://127.0.0.1:{team.server_port}/{place}" for place in ("dripping", "chat"))
    trained.env |= {"DRIPPING": f"{dripping}, {chat}", "CHAT": chat}
    trained.edit(lambda p: p["recipes"]["digits-gan"].update(schedule={"notify": ["$DRIPPING", "$CHAT"]}))
    shutil.rmtree(trained.path / "pictures")
    done = trained.run("aigc", "retrain", "digits-gan")
    assert done.returncode == 1
    assert "$DRIPPING was not told: it could not be sent within" in done.stdout + done.stderr
    assert [path for path, _ in team.heard] == ["/dripping", "/chat", "/chat"]


def test_an_address_is_not_taken_and_not_repeated() -> None:
    for whom in ("slack://token-secret", "https://hooks.example.org/secret", "$", "team"):
        with pytest.raises(ValidationError, match="put it into the environment") as error:
            Schedule.model_validate({"notify": [whom]})
        assert "secret" not in error.value.errors()[0]["msg"].replace("holds secrets", "")
