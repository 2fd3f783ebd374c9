"""Published generators of the CaloChallenge's dataset 2 (arXiv 2410.21611): other particles, energies and statistics."""

from caloedge.results import Cell, Number, Section, Table

SOURCE = "arXiv 2410.21611, dataset 2"
ROWS = (
    # name, parameters, CPU ms per shower at batch 1 and 100, KPD × 10³, AUC of the DNN on cells and on features
    ("CaloDREAM", 28_400_000, 16942, 5052, 0.023, 0.531, 0.521),
    ("CaloScore", 14_400_000, 133550, 147690, 0.149, 0.595, 0.666),
    ("CaloDiffusion", 518_000, 36502, 23317, 0.174, 0.577, 0.591),
    ("convolutional L2LFlows", 158_000_000, 1969, 121, 0.27, 0.708, 0.737),
    ("DeepTree", 530_000, 67.5, 38.3, 0.68, 0.963, 0.927),
    ("CaloINN", 271_000_000, 388, 59.7, 2.8, 0.743, 0.865),
    ("CaloScore, single shot", 14_400_000, 407, 280, 0.93, 0.747, 0.902),
    ("MDMA", 66_000, 14.3, 19.9, 5.0, 0.942, 0.987),
    ("Calo-VQ", 1_230_000, 168, 26.1, 8.5, 0.986, 0.994),
)


def section() -> Section:
    """Return published rows, which stand beside ours and are not ranked with them."""

    def cell(value: float, unit: str = "") -> Cell:
        return Number(value=value, unit=unit, origin="published", note=SOURCE)

    return Section(
        title="Published generators",
        text="Electrons of 1 to 1,000 GeV in a like detector, trained on 100,000 showers and judged on 100,000, timed on other "
        "computers: rows to know the order of things by, not to be ranked with ours.",
        blocks=(
            Table(
                title="Published: the CaloChallenge's dataset 2",
                columns=(
                    "generator", "parameters", "CPU time, batch 1", "CPU time, batch 100", "KPD × 10³", "AUC, DNN on cells",
                    "AUC, DNN on features",
                ),
                rows=tuple(
                    (name, cell(parameters), cell(one, "ms"), cell(hundred, "ms"), cell(kpd), cell(low), cell(high))
                    for name, parameters, one, hundred, kpd, low, high in ROWS
                ),
            ),
        ),
    )  # fmt: skip
