"""Tests that numbers on the pages are those of the results files."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest
from places import ROOT

from benchmarks import images, results, table

RESULTS = ROOT / "benchmarks" / "results"
CLAIMS = [  # (comparison, system, metric, what docs/results.md says)
    ("article", "mlp-ae", "mse", "0.0371"),
    ("article", "conv-ae", "mse", "0.0285"),
    ("article", "vae", "mse", "0.0098"),
    ("article", "vae-conv", "mse", "0.0066"),
    *zip(["article"] * 5, ["mlp-ae", "conv-ae", "denoising-ae", "vae", "vae-conv"], ["frechet_standard_normal"] * 5,
         ["108", "69", "49", "22", "11"], strict=True),
    *zip(["article"] * 5, ["mlp-ae", "conv-ae", "denoising-ae", "vae", "vae-conv"], ["frechet_fitted_prior"] * 5,
         ["46", "36", "3.0", "14", "6.3"], strict=True),
    *zip(["compression"] * 4, ["ae-2", "ae-8", "ae-32", "ae-128"], ["compression_ratio"] * 4,
         ["98", "24.5", "6.1", "1.5"], strict=True),
    *zip(["compression"] * 4, ["ae-2", "ae-8", "ae-32", "ae-128"], ["explained_variance"] * 4,
         ["0.29", "0.69", "0.80", "0.72"], strict=True),
    *zip(["compression"] * 4, ["ae-2", "ae-8", "ae-32", "ae-128"], ["out_of_domain_explained_variance"] * 4,
         ["-0.25", "0.22", "0.58", "0.46"], strict=True),
    ("rate-distortion", "beta-0", "mse", "0.0095"),
    ("rate-distortion", "beta-10", "mse", "0.0384"),
    ("rate-distortion", "beta-0", "rate", "335"),
    ("rate-distortion", "beta-10", "rate", "3 nats"),
    ("rate-distortion", "beta-1", "frechet_samples", "27"),
    ("rate-distortion", "beta-0", "frechet_samples", "80"),
    ("rate-distortion", "beta-10", "frechet_samples", "65"),
    ("few-images", "ae", "mse_training", "0.0080"),
    ("few-images", "ae", "mse", "0.0177"),
    ("few-images", "vae", "mse_training", "0.0114"),
    ("few-images", "vae", "mse", "0.0176"),
    ("few-images", "ae", "probe_accuracy", "86"),
    ("few-images", "vae", "probe_accuracy", "85 %"),
    ("article", "cvae", "label_accuracy", "96.5 %"),
    *zip(["article"] * 6, ["cvae", "denoising-ae", "vae-gan", "vae-conv", "vae", "conv-ae"], ["like_accuracy"] * 6,
         ["96 %", "94 %", "85 %", "82 %", "73 %", "44 %"], strict=True),
    ("article", "vae-conv", "frechet_samples", "11.1"),
    ("article", "gan", "frechet_samples", "0.99"),
    ("article", "vae-gan", "frechet_samples", "1.09"),
    ("article", "vae-gan", "frechet_reconstructions", "0.46"),
    ("article", "vae-conv", "frechet_reconstructions", "3.6"),
    ("article", "vae-gan", "mse", "0.019"),
    ("article", "vae-gan", "probe_accuracy", "94 %"),
    ("article", "vae-conv", "probe_accuracy", "92 %"),
    ("article", "gan", "class_balance", "0.997"),
    ("article", "gan", "coverage", "64 %"),
    ("article", "denoising-ae", "noisy_psnr_0.3", "13.3"),
    ("article", "denoising-ae", "noisy_psnr_0.5", "9.4"),
    ("article", "denoising-ae", "denoised_psnr_0.3", "22.4"),
    ("article", "denoising-ae", "denoised_psnr_0.5", "20.1"),
    ("article", "denoising-ae", "median_psnr_0.3", "17.2"),
    ("article", "denoising-ae", "median_psnr_0.5", "14.1"),
    ("article", "denoising-ae", "total_variation_psnr_0.3", "15.9"),
    ("article", "denoising-ae", "total_variation_psnr_0.5", "12.4"),
    ("article", "denoising-ae", "denoised_psnr_0.1", "23.1"),
    ("article", "denoising-ae", "total_variation_psnr_0.1", "24.6"),
    ("article", "denoising-ae", "denoised_ssim_0.1", "0.93"),
    ("article", "denoising-ae", "total_variation_ssim_0.1", "0.78"),
    *zip(["depth"] * 5, ["deep", "deep-pre-trained", "deep-batch-norm", "shallow", "residual-conv"], ["validation"] * 5,
         ["1,228", "4", "60", "-260", "-716"], strict=True),
    *zip(["depth"] * 5, ["deep", "deep-pre-trained", "deep-batch-norm", "shallow", "residual-conv"], ["mse"] * 5,
         ["0.0591", "0.0275", "0.0291", "0.0205", "0.0093"], strict=True),
    *zip(["importance"] * 3, ["k-1", "k-5", "k-50"], ["nll"] * 3, ["122.4", "118.5", "116.9"], strict=True),
]  # fmt: skip
PRESETS = [  # (system of `article`, metric, what docs/models.md says of the preset that trains the same)
    ("vae", "negative_elbo", "105.7"),
    ("vae", "mse", "0.0098"),
    ("vae", "frechet_samples", "22.2"),
    ("vae-conv", "negative_elbo", "95.4"),
    ("vae-conv", "mse", "0.0066"),
    ("vae-conv", "frechet_samples", "11.1"),
    ("vae", "frechet_floor", "0.06"),
]


@cache
def rows(comparison: str) -> dict[str, dict[str, Any]]:
    """Returns the mean of each metric over the seeds of each system, with `validation` and `seconds`."""
    found = json.loads((RESULTS / f"{comparison}.json").read_text())["rows"]
    return {
        row["system"]: {name: score["mean"] for name, score in row["scores"].items()}
        | {name: row[name]["mean"] for name in ("seconds", "validation") if row.get(name)}
        for row in found
    }


def rounded(value: float, text: str) -> str:
    """Returns a value with as many digits as the text has."""
    number = text.split()[0]
    share = "%" in text or (abs(value) < 1 < abs(float(number.replace(",", ""))))
    return f"{100 * value if share else value:,.{len(number.partition('.')[2])}f}"


@pytest.mark.parametrize(("comparison", "system", "metric", "text"), CLAIMS, ids=" ".join)
def test_claims_are_what_was_measured(comparison: str, system: str, metric: str, text: str) -> None:
    assert rounded(rows(comparison)[system][metric], text) == text.split()[0]
    page = (ROOT / "docs" / "results.md").read_text()
    assert re.search(rf"(?<![\d.,-]){re.escape(text)}(?![\d])", page), f"{text} is not on the page"


@pytest.mark.parametrize(("system", "metric", "text"), PRESETS, ids=" ".join)
def test_presets_are_as_good_as_was_measured(system: str, metric: str, text: str) -> None:
    assert rounded(rows("article")[system][metric], text) == text
    assert text in (ROOT / "docs" / "models.md").read_text()


def test_the_minutes_of_the_article_are_what_was_measured() -> None:
    seconds = {system: row["seconds"] for system, row in rows("article").items()}
    assert f"{sum(seconds.values()) / 60:.0f} minutes of training" in (ROOT / "docs" / "results.md").read_text()
    assert f"{(seconds['gan'] + seconds['vae-gan']) / 60:.0f} of them" in (ROOT / "docs" / "results.md").read_text()


def test_the_table_of_speed_is_that_of_its_file() -> None:
    page = (ROOT / "docs" / "speed.md").read_text()
    (name,) = re.findall(r"\[one run\]\(\.\./benchmarks/results/([^)]+)\)", page)
    assert table.markdown(results.read(RESULTS / name)).strip() in page


def test_the_table_of_own_images_is_that_of_its_file() -> None:
    made = images.as_markdown(json.loads((RESULTS / "images.json").read_text()))
    assert (RESULTS / "images.md").read_text() == made
    assert made.partition("\n\n")[2].strip() in (ROOT / "docs" / "results.md").read_text()


def test_own_images_come_out_better_than_from_peers_in_equal_time() -> None:
    for found in json.loads((RESULTS / "images.json").read_text()).values():
        errors = {row["system"]: row["mse"] for row in found["rows"]}
        for kind in ("ae", "vae"):
            assert errors[f"aemodels {kind}"] < min(errors[f"plain {kind}"], errors[f"pythae {kind}"])
        assert errors["aemodels ae"] < errors["linear code 20"]
