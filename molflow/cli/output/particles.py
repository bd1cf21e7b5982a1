"""The table of scores of particle systems."""

import math
from collections.abc import Callable

from molflow.cli.output import Record, columns, console
from molflow.report.tables import number, percent


def value(key: str) -> Callable[[Record], str]:
    """A function that formats a figure of a record, with its error if it has one."""
    return lambda record: number(record.get(key), record.get(f"{key}_error"))


def share(key: str) -> Callable[[Record], str]:
    """A function that formats a fraction of a record in percent, with its error if it has one."""
    return lambda record: percent(record.get(key), record.get(f"{key}_error"))


def of_system(key: str) -> Callable[[Record], str]:
    """A function that formats a figure of the system, with its error if it has one."""
    return lambda record: number((record["system"] or {}).get(key), (record["system"] or {}).get(f"{key}_error"))


def _always(text: str) -> Callable[[Record], str]:
    return lambda record: text


def _count(key: str) -> Callable[[Record], str]:
    """A function that formats a count; empty if it is 0."""
    return lambda record: f"{record[key]:,}" if record.get(key) else ""


def _entropy_by_bgflow(record: Record) -> str:
    entropy = (record["system"] or {}).get("entropy")
    return number(None if entropy is None else entropy - 0.5 * record["dof"] * math.log(2 * math.pi))


# Label, figure of the samples, and figure of the reference.
_BOLTZMANN: tuple[tuple[str, Callable[[Record], str], Callable[[Record], str]], ...] = (
    ("configurations", _count("n_samples"), _count("n_reference")),
    ("without a finite energy", _count("n_nonfinite_energies"), _always("")),
    ("without a finite log density", _count("n_nonfinite_log_prob"), _always("")),
    ("mean energy, kT", value("mean_energy"), value("reference_mean_energy")),
    ("median energy, kT", value("median_energy"), value("reference_median_energy")),
    ("above all reference energies", share("fraction_above_reference"), _always("0 %")),
    ("W1 of energies, kT", value("w1_energy"), value("w1_energy_halves")),
    ("  reweighted", value("w1_energy_reweighted"), value("w1_energy_halves")),
    ("W1 of distances", value("w1_distance"), value("w1_distance_halves")),
    ("  reweighted", value("w1_distance_reweighted"), value("w1_distance_halves")),
    ("effective sample size", share("ess_fraction"), _always("100 %")),
    ("largest weight", share("largest_weight"), _always("")),
    ("log Z, reweighted", value("reweighted_log_z"), of_system("log_z")),
    ("mean energy, reweighted, kT", value("reweighted_mean_energy"), of_system("mean_energy")),
    ("KL(samples || target), nats", value("reverse_kl"), _always("0")),
    ("test NLL by the decoder, nats", value("nll_decoder"), of_system("entropy")),
    ("  KL(target || decoder)", value("kl_decoder"), _always("0")),
    ("  as bgflow prints it", value("nll_decoder_bgflow"), _entropy_by_bgflow),
    ("test NLL by the encoder, nats", value("nll_encoder"), of_system("entropy")),
    ("  KL(target || encoder)", value("kl_encoder"), _always("0")),
    ("  as bgflow prints it", value("nll_encoder_bgflow"), _entropy_by_bgflow),
    ("encoder and decoder differ by, nats", value("disagreement"), _always("0")),
    ("reconstruction error", value("reconstruction_error"), _always("0")),
    ("ms per sample", value("ms_per_sample"), _always("")),
    ("ms per sample with its density", value("ms_per_sample_with_density"), _always("")),
)


def show_boltzmann(records: dict[str, Record]) -> None:
    """Print the scores of one or more sets of configurations beside those of the reference."""
    first = next(iter(records.values()))
    table = columns(records, first["system"]["name"])
    for label, of_samples, of_reference in _BOLTZMANN:
        texts = [of_samples(record) for record in records.values()]
        if any(texts):
            table.add_row(label, *texts, of_reference(first))
    console.print(table)
    console.print("± is one standard error of independent samples. The reference's W1 is between its halves: noise.")
    if first["n_nll_decoder"]:
        console.print(
            f"NLL of {first['n_nll_decoder']:,} test configurations. The reference is the entropy, the lowest possible."
        )
    if first.get("n_disagreeing"):
        console.print(
            f"Encoder and decoder differ by more than 0.1 nats on {first['n_disagreeing']:,} of these, by "
            f"{number(first['disagreement_largest'])} at most (configuration {first['disagreement_configuration']:,}): "
            "there the inverse is not exact enough, or the path is stiff."
        )
