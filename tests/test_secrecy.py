"""Tokens and passwords reach no log, card, record or traceback."""

import logging

import pytest
from conftest import PRETRAIN, TINY_RUN, run_here

from scratch_gpt.secrecy import holds_secret, is_secret, redact

HELD = {
    "HF_TOKEN": "canary-of-the-hub",
    "WANDB_API_KEY": "canary-of-wandb",
    "MY_PASSWORD": "canary-of-mine",
    "OTHER_TOKEN": "canary-of-the-hub-2",
}


@pytest.fixture(autouse=True)
def _held(monkeypatch):
    for name, value in HELD.items():
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
    ],
)
def test_what_looks_like_a_secret_is_struck_out_and_nothing_else(text, expected):
    assert redact(text) == expected


def test_which_variables_hold_secrets():
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
    ],
)
def test_a_real_secret_is_struck_out_wherever_it_stands(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert holds_secret(name, value)
    assert value not in redact(f"x{value}y 'https://host/{value}' {value!r}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
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
def test_words_and_paths_of_other_variables_stay(name, value, monkeypatch):
    """FOO_KEY=production struck the word from every log."""
    monkeypatch.setenv(name, value)
    text = f"reading {value}, which is in production"
    assert redact(text) == text


def test_a_run_writes_down_no_secret(tmp_path, text_file):
    """One that is named where it does not belong, in the licence and in the data's address, and those it was lent."""
    address = "https://me:letmein@host/text.csv"
    options = (*TINY_RUN, "--max_steps", "2", "--dataset_license", "canary-of-mine", "--output_dir")
    result = run_here(PRETRAIN, *options, str(tmp_path / "run"), "--dataset", str(text_file))
    wrong = run_here(PRETRAIN, *options, str(tmp_path / "other"), "--dataset", address, check=False)
    assert wrong.returncode == 2
    assert "https://<password>@host/text.csv" in wrong.stderr
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    said = "".join(part for r in (result, wrong) for part in (r.stdout, r.stderr))
    for secret in (*HELD.values(), "letmein"):
        assert secret not in said
        assert secret.encode() not in written
    assert b"<MY_PASSWORD>" in written


def test_a_traceback_that_was_asked_for_holds_none():
    result = run_here("scratch-gpt", "--debug", "info", "https://me:letmein@host/canary-of-mine", check=False)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "letmein" not in result.stderr
    assert "canary-of-mine" not in result.stderr


def test_wrong_arguments_and_logs_hold_none(tmp_path, capsys):
    run_here(PRETRAIN, "--secret", "canary-of-mine", check=False)  # from here on, logs are redacted too
    logging.getLogger("huggingface_hub").warning("GET %s failed", "https://host/a?X-Amz-Signature=abcd1234")
    logging.getLogger("elsewhere").error("canary-of-mine")
    refused = run_here(PRETRAIN, "--secret", "canary-of-mine", "--config", "https://me:letmein@host", check=False)
    assert refused.returncode == 2
    said = refused.stderr + capsys.readouterr().err
    assert "<password>@host" in said
    for secret in ("canary-of-mine", "letmein", "abcd1234"):
        assert secret not in said


def test_a_resume_knows_a_secret_again_and_prints_none(tmp_path, text_file):
    """One that names the data."""
    for name in ("canary-of-mine", "canary-of-wandb"):
        (tmp_path / f"{name}.txt").write_bytes(text_file.read_bytes())
    options = (*TINY_RUN, "--max_steps", "2", "--output_dir", str(tmp_path / "run"), "--dataset")
    run_here(PRETRAIN, *options, str(tmp_path / "canary-of-mine.txt"))
    run_here(PRETRAIN, *options, str(tmp_path / "canary-of-mine.txt"), "--resume")
    other = run_here(PRETRAIN, *options, str(tmp_path / "canary-of-wandb.txt"), "--resume", check=False)
    assert other.returncode == 2
    assert f"can't change dataset {tmp_path}/<MY_PASSWORD>.txt to {tmp_path}/<WANDB_API_KEY>.txt" in other.stderr
