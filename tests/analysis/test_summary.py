from analysis import results
from analysis.outcome import PLUMB, PLUMB_UNCACHED, Entry, Epochs, Outcome
from analysis.summary import DEFAULT, aims, factors, lines_of, losses_of, shortfalls
from plumb.tuning.measure.throughput import Chunk


def entry(peer, *rates, **more):
    return Entry(peer, f"as {peer}", [[Chunk(rate, 1.0)] * 5 for rate in rates], **more)


def outcome(*entries, name="photos", **more):
    return Outcome(name, name, "the CPU", "a machine", [200.0], 100.0, list(entries), **more)


PLUMB_AT_100 = entry(PLUMB, 100.0, 101.0, 99.0, tuning_seconds=5.0)
DEFAULT_AT_10 = entry(DEFAULT, 10.0, 10.0, 10.0)


def test_the_best_of_all_is_one_of_ours_and_no_library():
    faster = entry("a library", 500.0, 500.0, 500.0, versions={"library": "1"})
    best = outcome(PLUMB_AT_100, DEFAULT_AT_10, faster).oracle
    assert best.configuration == PLUMB_AT_100.configuration


def test_a_peer_that_did_not_run_counts_nowhere_but_is_named_with_its_reason():
    missing = Entry("DALI", error="not installed")
    told = outcome(PLUMB_AT_100, DEFAULT_AT_10, missing)
    assert "DALI" not in factors([told])
    assert "- DALI: not installed." in lines_of([told])


def test_a_loss_is_shown():
    faster = entry("FFCV", 200.0, 202.0, 198.0, versions={"ffcv": "1"})
    (line,) = losses_of(outcome(PLUMB_AT_100, DEFAULT_AT_10, faster))
    assert "FFCV" in line
    assert "0.500" in line


def test_a_loss_says_what_comes_of_it_over_the_epochs_of_a_training():
    stored, more = entry(PLUMB, 100.0, 100.0), entry("a full grid's best", 200.0, 200.0)
    both = [Entry(e.peer, "2 workers, load stored in memory", e.turns) for e in (stored, more)]
    (line,) = losses_of(outcome(*both, entry(PLUMB_UNCACHED, 1.0, 1.0)))
    assert "plumb reaches 0.959 of it" in line
    (line,) = losses_of(outcome(entry(PLUMB, 100.0, 60.0), more))
    assert "lie 50% apart" in line


def test_what_lies_within_noise_is_no_loss():
    level = entry("a grid", 101.0, 100.0, 98.0)
    assert losses_of(outcome(PLUMB_AT_100, level)) == []


def test_other_work_is_told():
    cheating = entry("a grid", 300.0, 300.0, 300.0, difference="the values are not the same, bit for bit")
    assert any("bit for bit" in line for line in lines_of([outcome(PLUMB_AT_100, cheating)]))


def test_aims_are_met_missed_or_not_measured():
    clocked = Epochs(0.01, "num_workers=2", [4.0, 4.0], "num_workers=1", 5.0, [2.0, 2.0])
    by_claim = {aim.claim: aim for aim in aims([outcome(PLUMB_AT_100, DEFAULT_AT_10, epochs=clocked)])}
    verdicts = [aim.is_met for aim in by_claim.values()]
    # plumb is the best itself, ten times the default, less than 47 times; there is no object storage; 2 times by the
    # clock; 5 seconds of 100.
    assert verdicts == [True, True, False, None, True, True]


def test_each_shortfall_is_named_with_what_is_known_of_it():
    near = [entry(peer, 80.0, 80.0, 80.0) for peer in ("FFCV", "random search", "another")]
    library, search, other = shortfalls([outcome(PLUMB_AT_100, DEFAULT_AT_10, *near)])
    assert "1.25 on 1 of 1 pipelines: it reads a file of its own format" in library
    assert "among plumb's own configurations" in search
    assert other.endswith(": unknown.")
    slow = entry(PLUMB, 100.0, 101.0, 99.0, tuning_seconds=50.0)
    (line,) = shortfalls([outcome(slow, DEFAULT_AT_10)])
    assert "plumb took 50 s, to look at every configuration once takes 100 s" in line
    assert shortfalls([outcome(PLUMB_AT_100, DEFAULT_AT_10)]) == ["- Nothing."]


def test_the_readme_quotes_the_summary_as_it_is():
    readme = (results.FOLDER.parents[1] / "README.md").read_text()
    quoted = readme.partition("<!-- summary -->\n")[2].partition("\n\n")[0].splitlines()
    assert len(quoted) > 2
    assert set(quoted) <= set((results.FOLDER / "summary.md").read_text().splitlines())
