"""Draw stability.png: molecule stability against processor time for each way to train on QM9.

    python experiments/recipe/figure.py     # needs matplotlib

Numbers are those of `experiments/results/recipe.json`: hours of one core up to then, the stages before included.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

RESULTS = Path(__file__).parents[1] / "results" / "recipe.json"


def main() -> None:
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for way in json.loads(RESULTS.read_text()):
        hours, stable = zip(*way["points"], strict=True)
        axes.plot(hours, stable, marker="o", markersize=4, label=f"{way['way']}, {way['evaluations']}")
    axes.axhline(95.28, color="black", linewidth=0.8, linestyle=":", label="QM9 itself")
    axes.set(xlabel="hours of one core", ylabel="stable molecules, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(Path(__file__).with_name("stability.png"), dpi=120)


if __name__ == "__main__":
    main()
