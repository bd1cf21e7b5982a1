"""The page of particle systems: how well samples follow a Boltzmann distribution."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from molflow.report.configurations import configuration_examples
from molflow.report.gallery import gallery, script, style
from molflow.report.page import heading, jump_links, page, paragraph, write_page
from molflow.report.particle_plots import chains_plots, free_energy_plot, histogram_plot, weights_plot
from molflow.report.tables import Row, number, percent, table


def boltzmann_page(
    record: Mapping[str, Any], figures: Mapping[str, Any], path: str | Path, *, title: str | None = None
) -> None:
    """Write a page with the scores, each with its reference and its meaning, and with what the samples look like.

    Args:
        record: `BoltzmannScores.to_dict()`.
        figures: result of `molflow.evaluation.particle_figures` for the same samples, for plots of energies, distances,
            a free-energy profile, weights and chains, and configurations that can be turned; or that of `histograms`,
            for the first two.
        path: the HTML file, which needs no network and no other file.
        title: title of the page; by default it names the system.

    Raises:
        MolflowError: plotly is not installed, or the path cannot be written.

    Example:
        >>> x, energy = molflow.load_pretrained("dw4").sample(50, seed=0), molflow.energies.DoubleWell()
        >>> scores = molflow.evaluation.evaluate_boltzmann(x, energy)
        >>> boltzmann_page(scores.to_dict(), molflow.evaluation.particle_figures(x, energy), "page.html")
    """
    system = record["system"] or {}
    name = system.get("name") or "particles"
    drawn = configuration_examples(figures["configurations"]) if "configurations" in figures else []
    sections = {
        "Scores": table("± is one standard error.", ("Figure", "Samples", "Reference"), _groups(record, system))
        + "".join(map(paragraph, _missing(record))),
        "Energies": histogram_plot(figures["energy"], "energy U (kT)", "Energies"),
        "Distances of particles": histogram_plot(
            figures["distance"], "distance of two particles", "Distances of all pairs"
        ),
        "Free energy": free_energy_plot(figures.get("free_energy")),
        "Weights": weights_plot(figures.get("weight")),
        "Chains": chains_plots(figures.get("chains"), record),
        "Configurations": gallery(drawn, _DRAWN, noun="configuration"),
    }
    filled = {name: html for name, html in sections.items() if html}
    html = page(
        title or f"Boltzmann evaluation: {name}",
        paragraph(_summary(record)),
        *(paragraph(text, notice=True) for text in _notices(record, figures.get("chains") or {})),
        jump_links(list(filled)),
        *(heading(name) + html for name, html in filled.items()),
        style=style(),
        script=script() if drawn else "",
    )
    write_page(path, html)


_DRAWN = (
    "Samples and configurations of the reference drawn at random, and the samples of the largest weight and of the "
    "highest energy. Particles that nearly touch are joined by lines; lengths are scaled."
)
_REMEMBERS = 2.0  # autocorrelation time from which on errors are said to be too small


def _summary(record: Mapping[str, Any]) -> str:
    text = f"{record['n_samples']:,} samples of {record['n_particles']} particles in {record['dim']} dimensions"
    if record["n_reference"]:
        text += f", against {record['n_reference']:,} reference configurations"
    return text + ". Energies are in kT, likelihoods in nats."


def _notices(record: Mapping[str, Any], chains: Mapping[str, Any]) -> list[str]:
    n = record["n_samples"]
    time = chains.get("samples", {}).get("autocorrelation_time")
    notices = []
    if bad := record["n_nonfinite_energies"]:
        notices.append(f"{bad:,} of {n:,} samples have no finite energy. Means and distances of energies omit them.")
    if bad := record["n_nonfinite_log_prob"]:
        notices.append(f"{bad:,} of {n:,} samples have no finite log density. Their weight is set to zero.")
    for which in ("encoder", "decoder"):
        if bad := record[f"n_nonfinite_nll_{which}"]:
            total = record[f"n_nll_{which}"]
            notices.append(f"{bad:,} of {total:,} test configurations have no finite likelihood through the {which}.")
    if (record["largest_weight"] or 0) > 0.1:
        notices.append(
            f"One sample has {percent(record['largest_weight'])} of all weight: reweighted figures and their errors "
            "are not reliable."
        )
    if time is not None and time > _REMEMBERS:
        notices.append(
            f"Samples that follow each other are alike: their energies have an autocorrelation time of {number(time)} "
            f"samples, so the errors of means are about {number(math.sqrt(time))} times as large as printed."
        )
    return notices


def _groups(record: Mapping[str, Any], system: Mapping[str, Any]) -> dict[str, list[Row]]:
    def row(label: str, key: str, reference: str, meaning: str) -> Row | None:
        value = record.get(key)
        return None if value is None else Row(label, (number(value, record.get(f"{key}_error")), reference), meaning)

    def known(key: str) -> str:
        return number(system.get(key), system.get(f"{key}_error"))

    def halves(key: str) -> str:
        return number(record[f"{key}_halves"])

    reference_mean = number(record["reference_mean_energy"], record["reference_mean_energy_error"])
    fraction = percent(record["ess_fraction"], record["ess_fraction_error"])
    above = record["fraction_above_reference"]
    noise = "Between samples and reference. The reference column is between two halves of the reference: noise."
    weighted = "With importance weights on the samples."
    groups = {
        "Importance weights": [
            Row("Effective sample size", (fraction, "100 %"), _ess_meaning(record)) if fraction else None,
            row(
                "log Z, reweighted",
                "reweighted_log_z",
                known("log_z"),
                "Logarithm of the normalising constant, from the weights. " + _agreement(record, system, "log_z"),
            ),
            row(
                "Mean energy, reweighted",
                "reweighted_mean_energy",
                known("mean_energy") or reference_mean,
                "Mean of the energy with weights. " + _agreement(record, system, "mean_energy"),
            ),
            row(
                "KL(samples || target)", "reverse_kl", "0", "In nats, averaged over the samples. 0 is a perfect match."
            ),
        ],
        "Likelihood of test configurations": [
            each
            for which in ("decoder", "encoder")
            for each in (
                row(f"NLL, {which}", f"nll_{which}", known("entropy"), _nll_meaning(record, system, which)),
                row(
                    f"KL(target || {which})",
                    f"kl_{which}",
                    "0",
                    "NLL minus the entropy, in nats. 0 is a perfect match.",
                ),
            )
        ]
        + [
            row(
                "Encoder and decoder differ by",
                "disagreement",
                "0",
                "Mean difference of the two log densities, nats. " + _disagreement_meaning(record),
            ),
            row(
                "Reconstruction error",
                "reconstruction_error",
                "0",
                "Mean distance of a configuration from its reconstruction. Above 0, the two densities differ.",
            ),
        ],
        "Energies": [
            row(
                "Mean energy",
                "mean_energy",
                reference_mean or known("mean_energy"),
                "Mean over samples without weights. A few clashes of particles can raise it far.",
            ),
            row(
                "Median energy", "median_energy", number(record["reference_median_energy"]), "Clashes hardly change it."
            ),
            Row(
                "Above the reference's largest",
                (percent(above), "0 %"),
                "Samples that are very unlikely under the target.",
            )
            if above is not None
            else None,
            row("Wasserstein-1 distance", "w1_energy", halves("w1_energy"), noise),
            row("The same, reweighted", "w1_energy_reweighted", halves("w1_energy"), weighted),
        ],
        "Distances of particles": [
            row("Wasserstein-1 distance", "w1_distance", halves("w1_distance"), noise),
            row("The same, reweighted", "w1_distance_reweighted", halves("w1_distance"), weighted),
        ],
    }
    return {name: [each for each in rows if each is not None] for name, rows in groups.items()}


def _ess_meaning(record: Mapping[str, Any]) -> str:
    return (
        f"For averages, the samples are worth {record['ess']:,.0f} exact ones; regions they never visit do not count. "
        f"The largest weight is {percent(record['largest_weight'])} of the sum."
    )


def _nll_meaning(record: Mapping[str, Any], system: Mapping[str, Any], which: str) -> str:
    entropy, constant = system.get("entropy"), 0.5 * record["dof"] * math.log(2 * math.pi)
    text = f"Negative log-likelihood of the normalised density through the {which}."
    if entropy is not None:
        text += " The reference is the entropy, which no model can go below."
    if record[f"nll_{which}_bgflow"] is not None:
        text += f" As bgflow prints it, without {constant:.2f}: {number(record[f'nll_{which}_bgflow'])}"
        text += "." if entropy is None else f", entropy {number(entropy - constant)}."
    return text


def _disagreement_meaning(record: Mapping[str, Any]) -> str:
    if record.get("disagreement") is None:
        return ""
    return f"The largest is {number(record['disagreement_largest'])}; {record['n_disagreeing']:,} are above 0.1."


def _agreement(record: Mapping[str, Any], system: Mapping[str, Any], key: str) -> str:
    value, error, exact = record[f"reweighted_{key}"], record[f"reweighted_{key}_error"], system.get(key)
    if value is None or not error or exact is None:
        return ""
    both = math.hypot(error, system.get(f"{key}_error") or 0)
    return f"{abs(value - exact) / both:.1f} standard errors from the reference."


def _missing(record: Mapping[str, Any]) -> list[str]:
    missing = {
        "ess": "importance weights (they need the log density of each sample)",
        "reverse_kl": "KL(samples || target) (it needs log Z and all energies finite)",
        "nll_decoder": "likelihood through the decoder",
        "nll_encoder": "likelihood through the encoder",
        "w1_energy": "comparison with a reference",
    }
    names = [name for key, name in missing.items() if record[key] is None]
    return [f"Not computed: {', '.join(names)}."] if names else []
