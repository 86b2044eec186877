"""`--page`: a run ends with the page of its published model, or says why it has none."""

import torch
from helpers.pages import payload_in, weights_in
from helpers.processes import PRETRAIN, run_here
from helpers.training import pretrain, weights

from scratch_gpt.see import support


def test_a_run_ends_with_the_page_of_its_published_model(text_file, tmp_path):
    run, page = tmp_path / "run", tmp_path / "run" / "see.html"
    pretrain(run, text_file, "--max_steps", "2")
    assert not page.exists()
    printed = run_here(
        PRETRAIN, "--output_dir", str(run), "--resume", "--max_steps", "3", "--page", "--allow_changed_settings"
    ).stdout
    assert f"{page}, {page.stat().st_size / 1e6:.1f} MB: open it in a browser\n" in printed
    (model,) = payload_in(page)["models"]
    assert model["name"] == "run"  # without the path of this machine
    found, published = weights_in(page, model["tensors"]), weights(run)
    assert found.keys() | model["tied"].keys() >= published.keys()
    for name, weight in found.items():
        assert torch.equal(weight, published[name].half()), name


def test_a_model_that_a_page_cant_show_is_no_error_of_the_run(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(support, "MAX_PARAMETERS", 1000)
    run = tmp_path / "run"
    result = pretrain(run, text_file, "--max_steps", "1", "--page")
    (line,) = [line for line in result.stdout.splitlines() if "see.html" in line]
    assert line.startswith(f"no {run / 'see.html'}: the model has ")
    advice = "show it by 'scratch-gpt see MODEL --serve', or choose a smaller one"
    assert line.endswith(f" parameters, and a page has at most 1,000: {advice}")
    assert (run / "model.safetensors").exists()
    assert not (run / "see.html").exists()
