"""Roles, certificates and TLS files."""

from __future__ import annotations

import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib import certs, errors, rpcerrors, tls
from axoneme.lib.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unauthenticated
from axoneme.lib.roles import NameRole, Role, parse_name_roles, parse_role, role_of, role_of_spiffe, spiffe_id

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True)
ROLES = st.one_of(
    st.builds(Role, st.sampled_from(["svc", "node", "peer"]), NAMES),
    st.builds(Role, st.just("user"), NAMES, st.sampled_from(["reader", "admin"])),
)


@given(ROLES)
def test_role_and_uri_are_inverse(role: Role) -> None:
    assert role_of_spiffe(spiffe_id(role, "east.mesh"), "east.mesh") == role
    assert parse_role(role.path) == role


@given(ROLES, NAMES)
def test_other_trust_domain_is_never_a_role(role: Role, domain: str) -> None:
    if domain != "east.mesh":
        with pytest.raises(Unauthenticated):
            role_of_spiffe(spiffe_id(role, domain), "east.mesh")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "svc",
        "svc/",
        "svc/a/b",
        "user/ann",
        "user/root/ann",
        "admin/x",
        "node/a b",
        "node/../x",
        "/node/x",
    ],
)
def test_paths_that_are_no_role(path: str) -> None:
    with pytest.raises(Unauthenticated):
        role_of_spiffe(f"spiffe://east.mesh/{path}", "east.mesh")


def test_names_are_asked_only_without_a_uri() -> None:
    rules = parse_name_roles(["*.hubble-relay.cilium.io=user/reader/stock", "west=peer/west"])
    assert role_of([], ["*.hubble-relay.cilium.io"], "east.mesh", rules).grade == "reader"
    assert role_of([], ["a.hubble-relay.cilium.io"], "east.mesh", rules).grade == "reader"
    assert role_of([], ["west"], "east.mesh", rules) == Role("peer", "west")
    for names in (["a.b.hubble-relay.cilium.io"], ["hubble-relay.cilium.io"], ["west.evil"], []):
        with pytest.raises(Unauthenticated):
            role_of([], names, "east.mesh", rules)
    with pytest.raises(Unauthenticated):
        role_of(["spiffe://other/peer/x"], ["west"], "east.mesh", rules)
    with pytest.raises(Unauthenticated):
        role_of([], ["west"], "east.mesh")


@pytest.mark.parametrize("entry", ["x", "=user/reader/a", "x=user/a", "x=nothing/a"])
def test_wrong_name_rules(entry: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_name_roles([entry])


def test_wildcard_is_one_label() -> None:
    assert NameRole("*.b.c", Role("svc", "x")).matches("A.b.C")
    assert not NameRole("*.b.c", Role("svc", "x")).matches("b.c")


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    certs.create_ca(tmp_path / "ca", "east.mesh")
    return tmp_path / "ca"


def names_of(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return san.get_values_for_type(x509.UniformResourceIdentifier), san.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize(
    ("role", "name", "uri", "dns"),
    [
        ("svc", "identity", "/svc/identity", ["identity.east.mesh"]),
        ("svc", "relay", "/svc/relay", ["relay.east.mesh", "*.hubble-relay.cilium.io"]),
        ("node", "n.1", "/node/n.1", ["n.1.east.mesh", "n-1.east.hubble-grpc.cilium.io"]),
        ("user/admin", "ann", "/user/admin/ann", []),
        ("peer", "west", "/peer/west", []),
    ],
)
def test_names_by_role(ca: Path, tmp_path: Path, role: str, name: str, uri: str, dns: list[str]) -> None:
    certificate = certs.issue(ca, role, name, tmp_path / "out")
    assert names_of(certificate) == (["spiffe://east.mesh" + uri], dns)
    assert tls.load(files(tmp_path / "out")).leaf() == certificate


def files(directory: Path) -> tls.TlsFiles:
    return tls.TlsFiles(directory / "ca.crt", directory / "tls.crt", directory / "tls.key")


def test_modes(ca: Path, tmp_path: Path) -> None:
    certs.issue(ca, "node", "n1", tmp_path / "out")
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in [tmp_path / "out", *(tmp_path / "out").iterdir()]
    }
    assert modes == {"out": 0o700, "tls.key": 0o600, "tls.crt": 0o644, "ca.crt": 0o644}
    assert stat.S_IMODE((ca / "ca.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("looser", ["ca", "ca/ca.key"])
def test_loose_ca_is_refused(ca: Path, tmp_path: Path, looser: str) -> None:
    (tmp_path / looser).chmod(0o755)
    with pytest.raises(FailedPrecondition, match="chmod"):
        certs.issue(ca, "node", "n1", tmp_path / "out")


def test_loose_key_is_refused_at_load(ca: Path, tmp_path: Path) -> None:
    certs.issue(ca, "node", "n1", tmp_path / "out")
    (tmp_path / "out/tls.key").chmod(0o640)
    with pytest.raises(tls.TlsFilesInvalid, match="0600"):
        tls.load(files(tmp_path / "out"))


def test_foreign_key_and_missing_files_are_refused(ca: Path, tmp_path: Path) -> None:
    certs.issue(ca, "node", "n1", tmp_path / "a")
    certs.issue(ca, "node", "n1", tmp_path / "b")
    mixed = tls.TlsFiles(tmp_path / "a/ca.crt", tmp_path / "a/tls.crt", tmp_path / "b/tls.key")
    with pytest.raises(tls.TlsFilesInvalid, match="does not belong"):
        tls.load(mixed)
    with pytest.raises(tls.TlsFilesInvalid, match="No such file"):
        tls.load(files(tmp_path / "none"))


def test_certificates_that_make_no_sense(ca: Path, tmp_path: Path) -> None:
    with pytest.raises(AlreadyExists):
        certs.create_ca(ca, "east.mesh")
    with pytest.raises(NotFound):
        certs.issue(tmp_path / "none", "node", "n1", tmp_path / "out")
    with pytest.raises(InvalidArgument):
        certs.issue(ca, "king", "n1", tmp_path / "out")
    with pytest.raises(InvalidArgument):
        certs.issue(ca, "node", "n1", tmp_path / "out", ip_sans=["1.2.3"])
    with pytest.raises(InvalidArgument):
        certs.issue(ca, "node", "n1", tmp_path / "out", ttl=dt.timedelta(0))
    with pytest.raises(InvalidArgument):
        certs.create_ca(tmp_path / "x", "East Mesh")


def test_leaf_never_outlives_its_ca(tmp_path: Path) -> None:
    authority = certs.create_ca(tmp_path / "ca", "east.mesh", ttl=dt.timedelta(days=2))
    leaf = certs.issue(tmp_path / "ca", "node", "n1", tmp_path / "out", dt.timedelta(days=9))
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_broken_renewal_keeps_the_old_certificate(ca: Path, tmp_path: Path) -> None:
    certs.issue(ca, "svc", "identity", tmp_path / "out")
    followed = tls.ServerCertificates(files(tmp_path / "out"))
    good = followed.material
    assert not followed.refresh()
    (tmp_path / "out/tls.crt").write_text("junk")
    assert not followed.refresh()
    assert followed.material is good
    certs.issue(ca, "svc", "identity", tmp_path / "out")
    assert followed.refresh()
    assert followed.generation == 1
    assert followed._take_pending() is not None
    assert followed._take_pending() is None


@given(st.sampled_from(errors.all_error_types()[1:]), st.text(max_size=30), st.floats(0, 1_000))
def test_errors_survive_the_wire(kind: type[errors.AxonemeError], text: str, delay: float) -> None:
    error = kind(text, violations=[("a.b", text)], retry_after_seconds=delay, metadata={"k": "v"})
    back = rpcerrors.from_status(rpcerrors.to_status(error))
    assert type(back) is kind
    assert (back.message, back.reason, back.violations, back.metadata) == (
        error.message, error.reason, error.violations, error.metadata,
    )  # fmt: skip
    assert back.retry_after_seconds == pytest.approx(delay, abs=1e-6)


def test_reasons_are_words() -> None:
    for kind in errors.all_error_types():
        assert kind.default_reason.replace("_", "").isalpha()
        assert kind.default_reason == kind.default_reason.upper()
        assert len(kind.default_reason) <= 63
