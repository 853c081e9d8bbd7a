"""A direction's report as a page: whole, safe, the same every time."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import matplotlib
import pytest

from app.schemas.directions import Accuracy, DirectionCard, Reading, SiteCard
from app.schemas.report import Behaviour, Control, DirectionReport, HistogramBin, ReliabilityBin, SiteReading
from workers.directions.page import page

CELLS = {"td", "th", "dt", "dd"}
VOID = {"meta", "br", "hr", "img", "link", "input"}
EVIL = "<script>alert('$x')</script>\"&"


def accuracy(value: float) -> Accuracy:
    return Accuracy(value=value, low=value - 0.03, high=value + 0.03, pairs=1160, prompts=1119)


def site(layer: int, pooling: str, value: float) -> SiteReading:
    return SiteReading(
        layer=layer,
        pooling=pooling,
        accuracy=accuracy(value),
        auroc=0.711,
        length_correlation=-0.123,
        refusal_correlation=None,
        split_half_cosine=0.812,
    )


def full() -> DirectionReport:
    card = DirectionCard(
        id="mine",
        digest="sha256:digest",
        model="tiny",
        model_revision="sha256:weights",
        template="sha256:template",
        sites=[SiteCard(layer=12, pooling="mean"), SiteCard(layer=18, pooling="end_of_turn")],
        prompt_sites=[SiteCard(layer=12, pooling="prompt_mean")],
        slope=2.5,
        level_edges=[-0.5, 0.25, 1.5],
        recipe="pairs",
        settings={
            "data": "böse.jsonl",
            "lambda": 3.0,
            "tiny": 0.0001,
            "paper": False,
            "by_prompt": None,
            "pairs": 1160,
        },
        readings=[
            Reading(data="hh", protocol="five-fold", accuracy=accuracy(0.671), calibration_error=0.028),
            Reading(data="beaver", protocol="never fitted on", accuracy=accuracy(0.654)),
        ],
        should_respond=accuracy(0.061),
        should_refuse=accuracy(0.903),
        unreliable=False,
        created="2026-11-20T08:11:02+00:00",
        version="0.1.0",
    )
    return DirectionReport(
        card=card,
        measured_on="hh, five folds over prompts",
        accuracy=accuracy(0.671),
        behaviour=Behaviour(auroc=0.722, length_correlation=0.111, refusal_correlation=0.444),
        swap_error=0.0000012,
        split_half_cosine=0.876,
        calibration_error=0.029,
        histogram=[
            HistogramBin(low=-1, high=0, count=30),
            HistogramBin(low=0, high=1, count=50),
            HistogramBin(low=1, high=2, count=20),
        ],
        reliability=[
            ReliabilityBin(confidence=0.55, accuracy=0.512, count=90),
            ReliabilityBin(confidence=0.75, accuracy=0.787, count=0),
            ReliabilityBin(confidence=0.95, accuracy=0.933, count=10),
        ],
        sites=[site(layer, pooling, 0.6 + layer / 200) for pooling in ("mean", "end_of_turn") for layer in (6, 12, 18)],
        controls=[Control(name="length alone", accuracy=accuracy(0.578), should_respond=accuracy(0.551))],
    )


def empty() -> DirectionReport:
    report = full()
    bare: dict[str, object] = {
        "prompt_sites": [],
        "level_edges": [],
        "settings": {},
        "readings": [],
        "slope": None,
        "unreliable": True,
    }
    card = report.card.model_copy(update=bare | {"should_respond": None, "should_refuse": None})
    return DirectionReport(
        card=card,
        measured_on="nothing",
        accuracy=None,
        behaviour=None,
        swap_error=0.0,
        split_half_cosine=None,
        calibration_error=None,
        histogram=[],
        reliability=[],
        sites=[],
        controls=[],
    )


def hostile() -> DirectionReport:
    report = full()
    places = [SiteCard(layer=12, pooling=EVIL)]
    update = {"id": EVIL, "model": EVIL, "recipe": EVIL, "digest": EVIL, "settings": {EVIL: EVIL}, "sites": places}
    reading = report.card.readings[0].model_copy(update={"data": EVIL, "protocol": EVIL})
    return report.model_copy(
        update={
            "card": report.card.model_copy(update={**update, "readings": [reading]}),
            "measured_on": EVIL,
            "controls": [report.controls[0].model_copy(update={"name": EVIL})],
            "sites": [site(12, EVIL, 0.7), site(18, "_hidden", 0.7), site(18, "$\\broken", 0.7)],
        }
    )


class Outline(HTMLParser):
    """Elements, text and ids of a page; fails where a tag is not closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in CELLS:
            self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def outline(report: DirectionReport) -> Outline:
    return Outline(page(report).decode())


def words(report: DirectionReport) -> str:
    return " ".join(outline(report).text.split())


@pytest.mark.parametrize("make", [full, empty, hostile])
def test_a_page_is_well_formed_and_accessible(make: Callable[[], DirectionReport]) -> None:
    html = page(make()).decode()
    tree = Outline(html)
    ids = [str(attributes["id"]) for _, attributes in tree.elements if "id" in attributes]
    labels = [str(a["aria-labelledby"]) for _, a in tree.elements if "aria-labelledby" in a]
    assert html.startswith("<!DOCTYPE html>")
    assert ("html", {"lang": "en"}) in tree.elements
    assert tree.count("title") == 1
    assert tree.count("table") == tree.count("caption")
    assert len(ids) == len(set(ids))
    assert set(labels) <= set(ids)
    assert all(a.get("role") == "img" and a.get("aria-labelledby") for tag, a in tree.elements if tag == "svg")


@pytest.mark.parametrize("make", [full, empty, hostile])
def test_a_page_needs_nothing_else(make: Callable[[], DirectionReport]) -> None:
    html = page(make()).decode()
    tree = Outline(html)
    assert not re.search(r"https?://", re.sub(r'xmlns(:\w+)?="[^"]*"', "", html))
    assert not {"script", "link", "img", "iframe", "object", "image"} & {tag for tag, _ in tree.elements}
    assert "@import" not in html
    references = [str(value) for _, a in tree.elements for name, value in a.items() if name in {"src", "xlink:href"}]
    assert all(reference.startswith("#") for reference in references + re.findall(r"url\((.*?)\)", html))


def test_names_are_text_wherever_they_stand() -> None:
    html = page(hostile()).decode()
    assert "<script" not in html
    svg = html[html.index("<svg") : html.index("</svg>")]
    assert "&lt;script" in svg
    assert "_hidden" in svg
    assert "$\\broken" in svg


def test_an_unreliable_direction_says_so() -> None:
    assert "Unreliable." not in words(full())
    assert "Unreliable. Nothing shows that this direction reads better than chance." in words(empty())


def test_every_figure_is_on_the_page() -> None:
    text = words(full())
    for part in ("Direction mine", "tiny", "sha256:digest", "sha256:weights", "sha256:template", "2026-11-20T08:11:02"):
        assert part in text
    for part in ("0.671 [0.641, 0.701]", "1,160 pairs of 1,119 prompts", "0.722", "0.111", "0.444", "0.876", "0.029"):
        assert part in text
    for part in ("Swap error 1.2e-06", "in log-odds; 0 is ideal", "0.061 [0.031, 0.091]", "0.903 [0.873, 0.933]"):
        assert part in text
    assert "hh 0.671 [0.641, 0.701] 1,160 1,119 0.028 five-fold" in text
    assert "beaver 0.654 [0.624, 0.684] 1,160 1,119 – never fitted on" in text
    assert "12 mean 0.660 [0.630, 0.690] 1,160 1,119 0.711 0.812 -0.123 – yes" in text
    assert "12 end_of_turn 0.660 [0.630, 0.690] 1,160 1,119 0.711 0.812 -0.123 – no" in text
    assert "this direction 0.671 [0.641, 0.701] 1,160 1,119 0.061 [0.031, 0.091] 0.903 [0.873, 0.933]" in text
    assert "length alone 0.578 [0.548, 0.608] 1,160 1,119 0.551 [0.521, 0.581] –" in text
    assert "0.950 0.933 10" in text
    assert "layer 12, mean; layer 18, end_of_turn Reads of the prompt layer 12, prompt_mean" in text
    assert "data böse.jsonl lambda 3.000 tiny 1.0e-04 paper no by_prompt – pairs 1160" in text
    assert "0 below -0.500 1 from -0.500 to below 0.250 2 from 0.250 to below 1.500 3 1.500 and above" in text


def test_three_plots_are_drawn() -> None:
    html = page(full()).decode()
    sites, histogram, reliability = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert all(label in sites for label in (">layer<", ">held-out accuracy<", ">mean<", ">end_of_turn<"))
    assert ">held-out margin, log-odds<" in histogram
    assert ">confidence<" in reliability


def test_what_is_missing_is_an_en_dash_or_a_sentence() -> None:
    text = words(empty())
    assert outline(empty()).count("svg") == 0
    assert "None" not in text
    for name in ("Held-out accuracy", "AUROC", "Calibration error", "Split-half cosine", "Correlation with refusal"):
        assert f"{name} –" in text
    for name in ("Should respond", "Should refuse", "Reads of the prompt", "Slope"):
        assert f"{name} –" in text
    for sentence in (
        "There are no readings",
        "No layer was measured by itself.",
        "No control was measured.",
        "There are no held-out margins to show.",
        "There is nothing to show of reliability",
        "The recipe recorded no settings.",
        "The direction has no levels",
    ):
        assert sentence in text
    assert "in raw units; 0 is ideal" in text


def test_bins_without_pairs_are_nothing_to_show() -> None:
    hollow = {
        "histogram": [HistogramBin(low=0, high=1, count=0)],
        "reliability": [ReliabilityBin(confidence=0.5, accuracy=0, count=0)],
    }
    assert outline(full().model_copy(update=hollow)).count("svg") == 1


@pytest.mark.parametrize(("edge", "share"), [(0.0, "0.300"), (0.5, "0.000 to 0.300")])
def test_label_conflicts_are_the_share_of_negative_margins(edge: float, share: str) -> None:
    bins = [HistogramBin(low=-1, high=edge, count=30), HistogramBin(low=edge, high=2, count=70)]
    assert f"Share of negative margins: {share}." in words(full().model_copy(update={"histogram": bins}))


def test_a_value_outside_its_interval_is_drawn() -> None:
    odd = Accuracy(value=0.9, low=0.5, high=0.8, pairs=3, prompts=3)
    rows = [site(3, "mean", 0.7).model_copy(update={"accuracy": odd})]
    assert outline(full().model_copy(update={"sites": rows})).count("svg") == 3


def test_the_same_report_gives_the_same_bytes_and_settings_stay() -> None:
    before = dict(matplotlib.rcParams)
    assert page(full()) == page(full())
    assert dict(matplotlib.rcParams) == before


def test_threads_may_draw_at_once() -> None:
    expected = [page(full()), page(hostile())] * 4
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(page, [full(), hostile()] * 4)) == expected
