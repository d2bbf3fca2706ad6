"""The stories of the demo: commands, and what each is to print. `demo` plays them.

A chapter begins without policies and leaves none behind but those that it says stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axoneme.lab.internet import site

POLICIES = Path(__file__).parents[2] / "examples" / "policies"
URL = "http://backend:8080"
CURL_TIMED_OUT = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One command and what the story claims about it. `texts`: groups of words, each group on one line of
    the output. `settling`: the output follows the packets by a moment, so look again until it fits.
    `changes_policy_of`: the pod whose kernel policy is another one afterwards."""

    words: tuple[str, ...]
    exit_status: int = 0
    texts: tuple[tuple[str, ...], ...] = ()
    settling: bool = False
    changes_policy_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Some acts under one sentence."""

    title: str
    acts: tuple[Act, ...] = field(default=())


def policy_chapter() -> tuple[Scene, ...]:
    """No policy, an allow rule, a deny rule, and back."""
    allow, deny = POLICIES / "allow-frontend.yaml", POLICIES / "deny-frontend.yaml"
    return (
        Scene(
            title="No policy yet: both pods reach backend, and every connection is seen",
            acts=(
                _reaches("frontend"),
                _reaches("batch"),
                _observe(2, ("ALLOWED", "frontend:"), ("ALLOWED", "batch:")),
            ),
        ),
        Scene(
            title="A policy: frontend may reach backend on TCP 8080, and nobody else may",
            acts=(
                _apply(allow),
                _reaches("frontend"),
                _is_dropped("batch"),
                _observe(
                    3,
                    ("ALLOWED BY allow-frontend", "frontend:"),
                    ("DROPPED BY DEFAULT: no rule in allow-frontend", "batch:"),
                ),
            ),
        ),
        Scene(
            title="A deny rule beats the allow rule: frontend is dropped too, and the reason says so",
            acts=(
                _apply(deny),
                _is_dropped("frontend"),
                _observe(2, ("denied by denylist DROPPED BY deny-frontend", "frontend:")),
            ),
        ),
        Scene(
            title="The deny rule goes: frontend passes again",
            acts=(
                _delete(deny),
                _reaches("frontend"),
                _observe(1, ("ALLOWED BY allow-frontend", "frontend:")),
            ),
        ),
    )


def dns_chapter() -> tuple[Scene, ...]:
    """Names: which may be looked up, and that only what was looked up can be reached."""
    policy = POLICIES / "shop-only.yaml"
    shop, api = site("shop.example.com"), site("api.example.com")
    return (
        Scene(
            title="No policy: every name resolves, every site answers",
            acts=(_visits(shop.name), _visits(api.name)),
        ),
        Scene(
            title="A policy: frontend may ask for names below example.com, and talk to the shop alone",
            acts=(_apply(policy, "frontend"), _cannot_visit(shop.ips[0]), _visits(shop.name)),
        ),
        Scene(
            title="Another name resolves but cannot be reached; a name outside of the rule is refused",
            acts=(
                _in_frontend("dig", "+short", api.name, "A", texts=((api.ips[0],),)),
                _cannot_visit(api.ips[0]),
                _in_frontend("dig", "www.example.org", texts=(("status: REFUSED",),)),
            ),
        ),
        Scene(
            title="Every question and answer is a flow, and later flows carry the name",
            acts=(
                _observed("--protocol", "dns", "--last", "12", texts=(("dns", "shop.example.com"),)),
                _observed(
                    *("--to-fqdn", shop.name, "--last", "4"),
                    texts=((shop.name,),),
                ),
            ),
        ),
        Scene(
            title="The node's proxy tells what each pod learned",
            acts=(
                Act(
                    words=("axoneme", "fqdn", "cache", "list", "--node", "node1"),
                    texts=((shop.name, shop.ips[0]),),
                ),
                _delete(policy, "frontend"),
            ),
        ),
    )


CHAPTERS: dict[str, Callable[[], tuple[Scene, ...]]] = {"policy": policy_chapter, "dns": dns_chapter}


def _observed(*words: str, texts: tuple[tuple[str, ...], ...]) -> Act:
    return Act(words=("axoneme", "observe", *words), texts=texts, settling=True)


def _reaches(pod: str) -> Act:
    return Act(words=_curl(pod), texts=(("hello from backend",),))


def _is_dropped(pod: str) -> Act:
    return Act(words=_curl(pod), exit_status=CURL_TIMED_OUT)


def _curl(pod: str) -> tuple[str, ...]:
    # Below a second, so that a dropped SYN is not sent twice and the story shows each packet once.
    return ("axoneme", "lab", "exec", pod, "--", "curl", "-4sS", "--max-time", "0.9", URL)


def _apply(file: Path, pod: str = "backend") -> Act:
    return Act(words=("axoneme", "policy", "apply", "-f", _shown(file)), changes_policy_of=pod)


def _delete(file: Path, pod: str = "backend") -> Act:
    return Act(words=("axoneme", "policy", "delete", "-f", _shown(file)), changes_policy_of=pod)


def _in_frontend(*words: str, **outcome: Any) -> Act:
    return Act(words=("axoneme", "lab", "exec", "frontend", "--", *words), **outcome)


def _visits(name: str) -> Act:
    return _in_frontend(
        "curl", "-4sS", "--max-time", "3", f"http://{name}/", texts=(("hello from internet",),)
    )


def _cannot_visit(address: str) -> Act:
    words = ("curl", "-4sS", "--max-time", "0.9", f"http://{address}/")
    return _in_frontend(*words, exit_status=CURL_TIMED_OUT)


def _observe(count: int, *texts: tuple[str, ...]) -> Act:
    """The newest flows on their way into backend."""
    what = ("--to-pod", "default/backend", "--traffic-direction", "ingress")
    kinds = ("--type", "policy-verdict", "--type", "drop")
    return Act(words=("axoneme", "observe", "--last", str(count), *what, *kinds), texts=texts, settling=True)


def _shown(path: Path) -> str:
    """The path as the reader would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
