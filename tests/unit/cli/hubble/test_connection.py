"""How commands reach a server: plaintext, TLS in all its ways, passwords, and settings with their order."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from axoneme.cli.hubble.durations import format_duration, parse_seconds
from axoneme.cli.hubble.settings import KEYS, load_settings
from axoneme.cli.main import main
from axoneme.lib.errors import InvalidArgument
from tests.golden.observeserver import Served, context_free, flow_at, serving

NAME = "instance.hubble-relay.cilium.io"


@pytest.fixture(autouse=True)
def nothing_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context_free(monkeypatch, tmp_path)


def certificate(directory: Path, name: str, issuer: str = "ca", *, authority: bool = False) -> None:
    """NAME.crt and NAME.key, by the issuer of the same directory (or by itself)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    if authority:
        signer, issued_by = key, subject
    else:
        loaded = x509.load_pem_x509_certificate((directory / f"{issuer}.crt").read_bytes())
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        signer = load_pem_private_key((directory / f"{issuer}.key").read_bytes(), None)  # type: ignore[assignment]
        issued_by = loaded.subject
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName(NAME), x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder(issued_by, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )
    (directory / f"{name}.crt").write_bytes(built.public_bytes(Encoding.PEM))
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / f"{name}.key").write_bytes(plain)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    for name in ("ca", "other"):
        certificate(directory, name, authority=True)
    for name in ("server", "client"):
        certificate(directory, name)
    return directory


def credentials(files: Path, *, mutual: bool) -> grpc.ServerCredentials:
    pair = ((files / "server.key").read_bytes(), (files / "server.crt").read_bytes())
    return grpc.ssl_server_credentials([pair], (files / "ca.crt").read_bytes(), mutual)


@pytest.fixture
def secured(files: Path) -> Iterator[Served]:
    with serving("localhost:0", credentials=credentials(files, mutual=False)) as served:
        served.observer.answers["GetFlows"] = [flow_at(1)]
        yield served


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code, and what went wrong."""
    code = main(["observe", "-o", "json", *words])
    captured = capsys.readouterr()
    assert (code == 0) == bool(captured.out)
    return code, captured.err


def test_plaintext_without_context(capsys: pytest.CaptureFixture[str]) -> None:
    with serving("localhost:0") as served:
        served.observer.answers["GetFlows"] = [flow_at(1)]
        for words in ([], ["--tls=false"], ["--no-tls"]):
            assert asked(capsys, "--server", served.address, *words) == (0, "")


def test_tls_with_an_authority(capsys: pytest.CaptureFixture[str], secured: Served, files: Path) -> None:
    authority = ["--tls-ca-cert-files", f"{files}/other.crt,{files}/ca.crt"]
    assert asked(capsys, "--server", secured.address, "--tls", *authority) == (0, "")
    assert asked(capsys, "--server", f"tls://{secured.address}", *authority) == (0, "")
    named = ["--tls-server-name", NAME]
    assert asked(capsys, "--server", secured.address, "--tls=true", *authority, *named) == (0, "")
    code, error = asked(capsys, "--server", secured.address, "--tls", *authority, "--tls-server-name", "x.y")
    assert (code, len(error.splitlines())) == (1, 1)
    other = ["--tls-ca-cert-files", f"{files}/other.crt"]
    assert asked(capsys, "--server", secured.address, "--tls", *other)[0] == 1


def test_tls_without_verification(capsys: pytest.CaptureFixture[str], secured: Served) -> None:
    assert asked(capsys, "--server", secured.address, "--tls")[0] == 1
    assert asked(capsys, "--server", secured.address, "--tls", "--tls-allow-insecure") == (0, "")
    insecure = ["--tls-allow-insecure", "--tls-server-name", "elsewhere.example"]
    assert asked(capsys, "--server", secured.address, "--tls", *insecure) == (0, "")


def test_mutual_tls(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    own = ["--tls-client-cert-file", f"{files}/client.crt", "--tls-client-key-file", f"{files}/client.key"]
    with serving("localhost:0", credentials=credentials(files, mutual=True)) as served:
        served.observer.answers["GetFlows"] = [flow_at(1)]
        words = ["--server", served.address, "--tls-ca-cert-files", f"{files}/ca.crt"]
        assert asked(capsys, *words, "--tls", *own) == (0, "")
        assert asked(capsys, *words, "--tls")[0] == 1
        code, error = asked(capsys, *words, "--tls", *own[:2])
        assert code == 1
        assert "certificate and private key are both required" in error
        code, error = asked(capsys, *words, *own)
        assert code == 1
        assert "give --tls too" in error


def test_basic_authentication(capsys: pytest.CaptureFixture[str], secured: Served, files: Path) -> None:
    words = ["--server", secured.address, "--basic-auth-username", "ann", "--basic-auth-password", "s:p"]
    code, error = asked(capsys, *words)
    assert code == 1
    assert "plaintext would show the password" in error
    assert asked(capsys, *words, "--tls", "--tls-ca-cert-files", f"{files}/ca.crt") == (0, "")
    assert secured.observer.metadata[-1]["authorization"] == "Basic YW5uOnM6cA=="
    code, error = asked(capsys, *words[:4], "--tls")
    assert code == 1
    assert "must specify both" in error


def test_environment_and_file_name_the_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".config" / "hubble" / "config.yaml"
    with serving("localhost:0") as served, serving(f"unix:{tmp_path}/s.sock") as other:
        for one in (served, other):
            one.observer.answers["GetFlows"] = [flow_at(1)]
        assert main(["config", "set", "server", served.address]) == 0
        assert file.stat().st_mode & 0o777 == 0o600
        assert asked(capsys)[1] == f"using the server {served.address} of {file}\n"
        assert len(served.observer.requests) == 1
        monkeypatch.setenv("HUBBLE_SERVER", other.address)
        assert asked(capsys) == (0, "")
        assert asked(capsys, "--server", served.address) == (0, "")
        assert (len(served.observer.requests), len(other.observer.requests)) == (2, 1)


def test_settings_have_an_order(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("tls: true\nrequest-timeout: 3s\ntls-ca-cert-files: [a, b]\nfuture: 1\n")
    environ = {"HUBBLE_REQUEST_TIMEOUT": "4s", "HUBBLE_CONFIG": str(file)}
    settings = load_settings({}, environ)
    assert (settings.flag("tls"), settings.seconds("request-timeout")) == (True, 4.0)
    assert settings.texts("tls-ca-cert-files") == ("a", "b")
    assert load_settings({"request_timeout": "5"}, environ).seconds("request-timeout") == 5.0
    assert load_settings({"tls": False}, environ).flag("tls") is False
    assert load_settings({}, {"HOME": str(tmp_path)}).seconds("request-timeout") == 12.0
    old = tmp_path / ".hubble" / "config.yaml"
    old.parent.mkdir()
    old.write_text("server: a:1\n")
    assert load_settings({}, {"HOME": str(tmp_path)}, config="").text("server") == "a:1"
    for text in ("tls: maybe\n", "request-timeout: soon\n", "- a\n", "a: [\n", "port-forward-port: 0\n"):
        file.write_text(text)
        with pytest.raises(InvalidArgument):
            load_settings({}, {"HUBBLE_CONFIG": str(file)})


def test_config_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = ["--config", str(tmp_path / "new" / "c.yaml")]
    for key, value in (("tls", "true"), ("tls-ca-cert-files", "a,b"), ("port-forward-port", "4246")):
        assert main(["config", "set", key, value, *file]) == 0
    assert main(["config", "get", "tls-ca-cert-files", *file]) == 0
    assert capsys.readouterr().out == "a,b\n"
    assert main(["config", "reset", "tls", *file]) == 0
    assert main(["config", "view", *file]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert len(values) == len(KEYS) == 18
    assert (values["tls"], values["tls-ca-cert-files"], values["port-forward-port"]) == (
        False,
        ["a", "b"],
        4246,
    )
    assert main(["config", "reset", *file]) == 0
    assert yaml.safe_load(Path(file[1]).read_text()) == {}
    assert main(["config", "set", "nothing", "1", *file]) == 1
    assert "unknown key 'nothing'" in capsys.readouterr().err


def test_durations() -> None:
    assert [parse_seconds(text) for text in ("5", "1m30s", "500ms", "1.5h")] == [5.0, 90.0, 0.5, 5400.0]
    for text in ("", "0s", "-5s", "5 s", "soon"):
        with pytest.raises(InvalidArgument):
            parse_seconds(text)
    wanted = {0: "0s", 350_000_000: "350ms", 12 * 10**9: "12s", 3_723_500_000_000: "1h2m3.5s", 1_500: "1.5µs"}
    assert {value: format_duration(value) for value in wanted} == wanted


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_scripts(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "_AXONEME_COMPLETE" in text
    assert "axoneme" in text
