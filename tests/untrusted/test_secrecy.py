"""Tokens and passwords reach no log, card, record or traceback."""

import json
import logging
from importlib.util import find_spec
from urllib.parse import quote, quote_plus

import pytest
from helpers.processes import PRETRAIN, TINY_RUN, run_here, run_python

from scratch_gpt.errors import not_installed
from scratch_gpt.redaction import holds_secret, is_secret, redact

SECRETS = {
    "HF_TOKEN": "canary-of-the-hub",
    "WANDB_API_KEY": "canary-of-wandb",
    "MY_PASSWORD": "canary-of-mine",
    "OTHER_TOKEN": "canary-of-the-hub-2",
}


@pytest.fixture(autouse=True)
def _secrets(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sent canary-of-the-hub", "sent <HF_TOKEN>"),
        ("hf_" + "aB3" * 12 + ".", "<token>."),
        ("https://me:letmein@host/a.csv, user@host", "https://<password>@host/a.csv, user@host"),
        ("s3://b/k?X-Amz-Signature=ab12&part=3", "s3://b/k?X-Amz-Signature=<…>&part=3"),
        ("https://me:p@ss/w@host/a", "https://<password>@host/a"),
        ("https://a.blob/x?sv=1&sig=ab%2F12", "https://a.blob/x?sv=1&sig=<…>"),
        ("canary-of-the-hub-2", "<OTHER_TOKEN>"),
        ("hf_transfer, the key=value of a token", "hf_transfer, the key=value of a token"),
        ("https://h/?X-Amz-Credential=AB%2F1&x=2", "https://h/?X-Amz-Credential=<…>&x=2"),
        ("https://h/?api_key=ab&password=cd&user=me", "https://h/?api_key=<…>&password=<…>&user=me"),
        ("https://h/#access_token=ab", "https://h/#access_token=<…>"),
        ("ghp_" + "a1" * 18, "<token>"),
        ("see github_pat_11ABCDEFG0_abcdefghijklm.", "see <token>."),
        ("glpat-abcdefghij-1234567890", "<token>"),
        ("sk-proj-" + "aB3_" * 10, "<token>"),
        ("AKIAIOSFODNN7EXAMPLE/x", "<token>/x"),
        ("xoxb-123456789012-abcdefghij", "<token>"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-DEF_1", "<token>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----!", "<token>!"),
        ("Authorization: Bearer abcdefgh, 401", "Authorization: <…>, 401"),
        ("{'authorization': 'Basic dXNlcjpwYXNz'}", "{'authorization': '<…>'}"),
        ("sent with Bearer abcdef123456.", "sent with Bearer <…>"),
        ("Cookie: session=abc; id=2", "Cookie: <…>"),
        ("X-Api-Key: abcdef", "X-Api-Key: <…>"),
        *[
            (text, text)
            for text in (
                "global-attention-with-a-sliding-window-of-32",
                "scikit-learn, sk-learn, sk-this-is-no-token-but-words",
                "the bearer of bad news, bearer authentication",
                "?max_length=3&seed=4",
                "MAX_TOKENS=4096",
            )
        ],
    ],
)
def test_text_that_looks_like_a_secret_is_redacted_and_other_text_is_not(text, expected):
    assert redact(text) == expected


def test_names_of_variables_that_hold_secrets():
    assert all(
        map(is_secret, ("HF_TOKEN", "hugging_face_hub_token", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_PAT"))
    )
    assert not any(map(is_secret, ("TOKENIZERS_PARALLELISM", "HF_HOME", "KEYBOARD", "PATH", "PWD", "MAX_TOKENS")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "hf_" + "aB3" * 12),
        ("HUGGING_FACE_HUB_TOKEN", "some-words"),
        ("NPM_AUTHTOKEN", "abcdefgh"),
        ("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567"),
        ("OPENAI_API_KEY", "sk-proj-abcdefgh"),
        ("OPENAI_APIKEY", "production"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("AWS_SECRET_ACCESS_KEY", "/Jalr+UtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "abcdefghijkl"),
        ("GITHUB_PAT", "github_pat_abcdefgh"),
        ("DB_PASSWORD", "postgres"),
        ("PGPASSWORD", "hunter2"),
        ("MYSQL_PWD", "my secret words"),
        ("DB_PASS", "letmein2"),
        ("DJANGO_SECRET", "production"),
        ("GPG_PASSPHRASE", "correct horse battery staple"),
        ("FOO_KEY", "ab12cd34"),
        ("FOO_KEY", "9f86d081884c7d659a2feaa0c55ad015"),
        ("FOO_KEY", "123e4567-e89b-12d3-a456-426614174000"),
        ("FOO_KEY", "aBcDeFgHiJkL"),
        ("FOO_KEY", "qpwoeirutyalskdjfhgzmx"),
        ("FOO_KEY", "1234567890123456"),
        ("REDISCLI_AUTH", "letmeinplease"),
        ("LICENSE_KEY", "AB12-CD34-EF56-GH78"),
        ("MY_TOKEN_FILE", "hf_" + "aB3" * 12),
        ("DB_SECRETS", "production"),
        ("CI_TOKENS", "first-one second-one"),
        ("API_KEYS", "staging-keys"),
        ("DOCKER_AUTH_CONFIG", '{"auths": {"h": {"auth": "dXNlcjpwYXNz"}}}'),
        ("COOKIE", "session=abcdef"),
        ("BEARER", "abcdefgh"),
    ],
)
def test_a_secret_is_redacted_anywhere_in_a_text(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert holds_secret(name, value)
    assert value not in redact(f"x{value}y 'https://host/{value}' {value!r}")


@pytest.mark.parametrize("name", ["PGPASSWORD", "SSHPASS", "GPG_PASSPHRASE", "DB_PASS", "COOKIE", "BEARER"])
def test_a_short_secret_is_redacted_as_a_whole_word(name, monkeypatch):
    monkeypatch.setenv(name, "letmein")
    assert (
        redact("postgres://letmein, password_letmein, letmeinside")
        == f"postgres://<{name}>, password_<{name}>, letmeinside"
    )


def test_a_secret_is_redacted_in_every_form(monkeypatch):
    """With a line end, on one line, URL-encoded, escaped, and as a string in JSON."""
    secret = "ab/cd+ef g'h\ni\n"
    monkeypatch.setenv("MY_PASSWORD", secret)
    texts = {secret.strip(), "ab/cd+ef g'h i", repr(secret)[1:-1].removesuffix("\\n"), json.dumps(secret.strip())[1:-1]}
    for text in (secret.strip(), "ab/cd+ef g'h i"):
        texts |= {quote(text), quote_plus(text), quote(text, safe=""), quote(text, safe="").lower()}
    assert {redact(f"x {text} y") for text in texts} == {"x <MY_PASSWORD> y"}
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", '{"auths": {"host": {"auth": "dXNlcjpwYXNz"}}}')
    assert redact("sent dXNlcjpwYXNz to the host") == "sent <DOCKER_AUTH_CONFIG> to the host"
    monkeypatch.setenv("DEPLOY_PRIVATE_KEY", "first-line-of-a-key\nsecond-line-of-a-key\n")
    assert redact("read second-line-of-a-key") == "read <DEPLOY_PRIVATE_KEY>"
    assert redact({"dXNlcjpwYXNz": [{"dXNlcjpwYXNz": 1}]}) == {"<DOCKER_AUTH_CONFIG>": [{"<DOCKER_AUTH_CONFIG>": 1}]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CACHE_KEY", "myshakespeare"),
        ("CACHE_KEY", "v3-9f86d081884c7d659a2feaa0"),
        ("PARTITION_KEY", "qpwoeirutyalskdjfhgzmx"),
        ("MAX_NEW_TOKENS", "4096"),
        ("BATCH_TOKENS", "65_536"),
        ("FOO_KEY", "production"),
        ("PARTITION_KEY", "customer_number"),
        ("SORT_KEY", "createdTimestamp"),
        ("REGION_KEY", "eu-west-1a"),
        ("CACHE_KEY", "Linux-python-3.11-2026"),
        ("SSH_KEY_PATH", "/home/anna/.ssh/id_rsa"),
        ("HF_TOKEN_PATH", "/home/anna/.cache/huggingface/token"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token"),
        ("GOOGLE_APPLICATION_CREDENTIALS", __file__),
        ("SSH_KEY_FILE", __file__),
        ("SHORT_TOKEN", "none"),
        ("KEYBOARD", "x9Zq7Lm3Kp2"),
        ("MAX_TOKENS", "1234567890123456"),
    ],
)
def test_words_and_paths_in_other_variables_are_not_redacted(name, value, monkeypatch):
    """Regression: FOO_KEY=production redacted the word in every log."""
    monkeypatch.setenv(name, value)
    text = f"reading {value}, which is in production"
    assert redact(text) == text


def test_a_run_saves_no_secret(tmp_path, text_file):
    """Secrets in the arguments, here the licence and the URL of the data, and in environment variables."""
    address = "https://me:letmein@host/text.csv"
    options = (*TINY_RUN, "--max_steps", "2", "--dataset_license", "canary-of-mine", "--output_dir")
    result = run_here(PRETRAIN, *options, str(tmp_path / "run"), "--dataset", str(text_file))
    wrong = run_here(PRETRAIN, *options, str(tmp_path / "other"), "--dataset", address, check=False)
    assert wrong.returncode == 2
    assert "https://<password>@host/text.csv" in wrong.stderr
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    said = "".join(part for r in (result, wrong) for part in (r.stdout, r.stderr))
    for secret in (*SECRETS.values(), "letmein"):
        assert secret not in said
        assert secret.encode() not in written
    assert b"<MY_PASSWORD>" in written


def test_a_debug_traceback_contains_no_secret():
    result = run_here("scratch-gpt", "--debug", "info", "https://me:letmein@host/canary-of-mine", check=False)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "letmein" not in result.stderr
    assert "canary-of-mine" not in result.stderr


def test_argument_errors_and_logs_contain_no_secret(tmp_path, capsys):
    run_here(PRETRAIN, "--secret", "canary-of-mine", check=False)  # from here on, logs are redacted too
    logging.getLogger("huggingface_hub").warning("GET %s failed", "https://host/a?X-Amz-Signature=abcd1234")
    logging.getLogger("elsewhere").error("canary-of-mine")
    refused = run_here(PRETRAIN, "--secret", "canary-of-mine", "--config", "https://me:letmein@host", check=False)
    assert refused.returncode == 2
    said = refused.stderr + capsys.readouterr().err
    assert "<password>@host" in said
    for secret in ("canary-of-mine", "letmein", "abcd1234"):
        assert secret not in said


def test_a_resume_compares_redacted_arguments(tmp_path, text_file):
    """With a secret in the name of the data file."""
    for name in ("canary-of-mine", "canary-of-wandb"):
        (tmp_path / f"{name}.txt").write_bytes(text_file.read_bytes())
    options = (*TINY_RUN, "--max_steps", "2", "--output_dir", str(tmp_path / "run"), "--dataset")
    run_here(PRETRAIN, *options, str(tmp_path / "canary-of-mine.txt"))
    run_here(PRETRAIN, *options, str(tmp_path / "canary-of-mine.txt"), "--resume")
    other = run_here(PRETRAIN, *options, str(tmp_path / "canary-of-wandb.txt"), "--resume", check=False)
    assert other.returncode == 2
    assert f"can't change dataset {tmp_path}/<MY_PASSWORD>.txt to {tmp_path}/<WANDB_API_KEY>.txt" in other.stderr


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard", "trackio"])
def test_a_tracker_receives_no_secret_of_the_command_line(tracker, tmp_path, text_file):
    """wandb records `sys.argv` by default."""
    if find_spec(tracker) is None:
        pytest.skip(not_installed(tracker))
    token, options = "ghp_" + "a1" * 18, (*TINY_RUN, "--max_steps", "2", "--tracker", tracker)
    arguments = ("--dataset", str(text_file), "--dataset_license", f"see {token}", "--output_dir", "run")
    places = {name: str(tmp_path / tracker) for name in ("HOME", "HF_HOME", "WANDB_DIR", "TRACKIO_DIR")}
    result = run_python(PRETRAIN, *options, *arguments, cwd=tmp_path, WANDB_MODE="offline", **places)
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = [path for path in written if tracker in str(path) or "tfevents" in path.name]
    assert any(b"see <token>" in written[path] for path in kept), result.stderr  # it received the arguments
    assert [path for path in written if token.encode() in written[path]] == []
