"""Fitting the simulator: statistics of logs, the reader, the fit, and packaged option sets."""

import dataclasses
import gzip
import json
import os
import re

import numpy as np
import pytest

from tests.real_logs import CHECKINS, TAOBAO, needs_real_logs
from tfdare.commands.simulate import main
from tfdare.simulation import SimulatorOptions, like, parameters, simulate, write_log
from tfdare.simulation.fit import CURVES, fit, views_of
from tfdare.simulation.logs import read_sample
from tfdare.simulation.statistics import LAGS, PARTNER_LAGS, POSITIONS, Views, measure, ranks

OPTIONS = SimulatorOptions(users=150, items=2000, categories=40, mean_events=60, seed=11)


def views_like(options):
    return views_of(simulate(options))


# --- statistics ---------------------------------------------------------------------------------


def test_statistics_by_hand():
    # 60 users with four page views each: A A B A, always the same two categories.
    users, hour = 60, 3600
    views = Views(
        np.repeat(np.arange(users), 4),
        np.tile([1, 1, 2, 1], users),
        np.tile([7, 7, 8, 7], users),
        np.tile([0, 10, 20, 2 * hour], users),
    )
    statistics = measure(views)
    counts = [statistics[name] for name in ("users", "page_views", "items", "categories")]
    assert counts == [60, 240, 2, 2]
    by_lag = dict(zip(LAGS, statistics["repeat_rate"]))
    assert by_lag[1] == pytest.approx(1 / 3) and by_lag[2] == 1 / 2 and by_lag[3] == 1
    assert by_lag[5] is None
    chance = 0.75**2 + 0.25**2
    assert statistics["category_chance"] == chance
    assert statistics["category_lift"][0] == pytest.approx(1 / 3 / chance)
    assert statistics["seen_before"][:2] == [0.5, 1.0]  # after one and two; after three
    assert statistics["item_share"] == [0.75, 0.25]
    assert statistics["length"] == [4.0] * 9
    assert statistics["hour"][:3] == [0.75, 0.0, 0.25]
    # 8 follows 7 in one of two cases that are not 8 itself, and 7 follows 8 always.
    expected = np.mean([0, 1, 1]) / np.mean([0.25, 0.25, 0.75])
    assert statistics["partner_lift"][0] == pytest.approx(expected)
    assert ranks(60).tolist() == [1, 2, 5, 10, 20, 50]


def test_statistics_reveal_planted_relations():
    plain = dataclasses.replace(OPTIONS, relation=0.0, favorite=0.0)
    none = measure(views_like(plain))
    related = measure(views_like(dataclasses.replace(plain, relation=0.8, lag_low=2, lag_high=2)))
    at = PARTNER_LAGS.index(2)
    assert related["partner_lift"][at] > 4 * none["partner_lift"][at]
    assert related["partner_lift"][at] > 2 * related["partner_lift"][PARTNER_LAGS.index(5)]
    returning = measure(
        views_like(dataclasses.replace(plain, returns=0.3, return_low=2, return_decay=1.5))
    )
    assert returning["repeat_rate"][1] > 3 * none["repeat_rate"][1]
    assert returning["repeat_rate"][1] > 3 * returning["repeat_rate"][LAGS.index(20)]
    growing = measure(views_like(dataclasses.replace(plain, return_growth=0.5)))
    seen = growing["seen_before"]
    assert seen[POSITIONS.index(30)] > seen[POSITIONS.index(3)] + 0.1
    kin = measure(views_like(dataclasses.replace(plain, kinship=1.0, lifelong=0.9, drift=0.0)))
    assert kin["partner_lift"][-1] > 1.5 * none["partner_lift"][-1]


def test_users_that_return_differ_as_asked():
    def spread(return_spread):
        options = dataclasses.replace(
            OPTIONS, users=300, favorite=0.0, return_growth=0.4, return_spread=return_spread
        )
        views = views_like(options)
        new = np.unique(np.stack([views.user, views.item]), axis=1)[0]
        return np.std(
            np.unique(new, return_counts=True)[1] / np.unique(views.user, return_counts=True)[1]
        )

    assert spread(1.5) > 2 * spread(0.0)


def test_visits_rhythm_and_a_coarse_clock():
    options = dataclasses.replace(
        OPTIONS, start=0, days=20, pause=40.0, visit_events=6.0, daily=0.9, peak_hour=20.0
    )
    views = views_like(options)
    gap = np.diff(views.time)[np.diff(views.user) == 0]
    assert gap.min() >= 1
    assert 20 < np.median(gap[gap < 1800]) < 80
    assert 1 / 10 < (gap > 1800).mean() < 1 / 4
    assert views.time.min() >= 0 and views.time.max() < 20 * 86_400
    hours = measure(views)["hour"]
    assert sum(hours[18:22]) > 4 * sum(hours[6:10])
    flat = measure(views_like(dataclasses.replace(options, daily=0.0)))["hour"]
    assert sum(flat[18:22]) < 1.5 * sum(flat[6:10])
    coarse = views_like(dataclasses.replace(options, resolution=3600))
    assert (coarse.time % 3600 == 0).all()
    assert (coarse.time == views.time - views.time % 3600).all()

    def span(stay):
        time = views_like(dataclasses.replace(options, stay=stay)).time
        starts = np.flatnonzero(np.diff(views.user, prepend=-1))
        ends = np.append(starts[1:], time.size) - 1
        return np.median(time[ends] - time[starts]) / 86_400

    assert span(0.0) > 14 > 10 > span(1.0)


def test_lengths_of_a_gamma_distribution():
    options = dataclasses.replace(OPTIONS, users=3000, mean_events=100, length_shape=1.5)
    length = np.unique(views_like(options).user, return_counts=True)[1]
    assert length.mean() == pytest.approx(100, rel=0.05)
    assert length.var() == pytest.approx(100**2 / 1.5, rel=0.15)


# --- the reader ---------------------------------------------------------------------------------


def test_reader_gives_what_was_written(tmp_path):
    path = tmp_path / "log.csv.gz"
    counts = write_log(path, OPTIONS, bad_rows=7, progress=False)
    sample = read_sample([path], progress=False)
    assert sample.rows + sample.unreadable == counts.rows
    assert sample.unreadable == 5  # a negative item is an item to this reader
    assert sample.users == 150
    assert sample.other_behaviors == pytest.approx(0.11, abs=0.02)
    views = views_like(OPTIONS)
    read, real = measure(sample.views), measure(views)
    assert read["page_views"] - real["page_views"] in (0, 1, 2)
    assert read["repeat_rate"][:6] == pytest.approx(real["repeat_rate"][:6], rel=0.05)


def test_reader_samples_whole_users_of_a_large_log(tmp_path):
    path = tmp_path / "log.csv"
    write_log(path, OPTIONS, progress=False)
    whole = read_sample([path], progress=False)
    sample = read_sample([path], max_views=4000, progress=False)
    assert 1000 < sample.views.user.size <= 4000 < whole.views.user.size
    assert sample.rows == whole.rows and 100 < sample.users < 220
    kept = np.isin(whole.views.user, np.unique(sample.views.user))
    assert all((a[kept] == b).all() for a, b in zip(whole.views, sample.views))


def test_reader_takes_other_columns_and_any_order(tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text(
        "when,what,extra,kind,who\n30,b,x,k2,ann\n10,a,x,k1,ann\n20,a,x,k1,bob\n,a,x,k1,bob\n1\n"
    )
    columns = {"user": "who", "item": "what", "category": "kind", "time": "when"}
    sample = read_sample([path], columns=columns, progress=False)
    assert (sample.rows, sample.unreadable, sample.users) == (3, 2, 2)
    views = sample.views
    assert views.time[views.user == views.user[np.argmax(views.time)]].tolist() == [10, 30]
    with pytest.raises(ValueError, match="odd.csv cannot be read: .*'category'"):
        read_sample([path], columns={"user": "who", "item": "what", "time": "when"})
    path.write_text("when,what,kind,who\nnever,a,b,c\n")
    with pytest.raises(ValueError, match="No page view can be read from .*odd.csv"):
        read_sample([path], columns=columns)


# --- the fit ------------------------------------------------------------------------------------


def test_fit_recovers_the_options_of_a_log():
    planted = dataclasses.replace(
        OPTIONS,
        users=250,
        favorite=0.0,
        returns=0.25,
        return_low=2,
        return_decay=1.2,
        lag_low=1,
        lag_high=10,
        relation=0.1,
        pause=30.0,
        length_shape=2.0,
        daily=0.8,
        start=0,
        peak_hour=15.0,
        days=9,
        other_behaviors=0.2,
    )
    said = []
    fitted = fit(views_like(planted), other_behaviors=0.2, rounds=1, say=said.append)
    options = fitted.options
    assert (options.users, options.return_low, options.other_behaviors) == (250, 2, 0.2)
    assert options.length_shape == pytest.approx(2.0, rel=0.25)
    assert options.mean_events == pytest.approx(60, rel=0.1)
    assert options.days == 9 and options.resolution == 1
    assert options.daily > 0.3 and 10 < options.pause < 80
    assert fitted.real == measure(views_like(planted))
    assert fitted.simulated == measure(views_like(options))
    assert set(fitted.error) == set(CURVES) and len(said) == 4
    for name in ("repeat_rate", "category_rate", "category_share", "gap"):
        assert fitted.error[name] < 0.3, fitted.error
    # One that was not fitted is much further away.
    far = fit(views_like(planted), options=SimulatorOptions(), rounds=0)
    for name in ("repeat_rate", "category_share", "gap"):
        assert far.error[name] > 2 * fitted.error[name], (far.error, fitted.error)


def test_a_log_too_small_is_refused():
    with pytest.raises(ValueError, match="Received: 3 users"):
        fit(views_like(dataclasses.replace(OPTIONS, users=3)))


@needs_real_logs
@pytest.mark.parametrize(
    "name, path, columns",
    [("taobao", TAOBAO, None), ("checkins", CHECKINS, {"time": "timestamp"})],
)
def test_packaged_option_sets_resemble_their_logs(name, path, columns):
    sample = read_sample([path], columns=columns, progress=False)
    known = parameters.read(name)
    fitted = fit(sample.views, options=known.options, rounds=0)
    assert known.real["page_views"] == fitted.real["page_views"]
    assert known.real["repeat_rate"] == pytest.approx(fitted.real["repeat_rate"], rel=1e-3)
    assert max(fitted.error[curve] for curve in CURVES if curve != "hour") < 0.3, fitted.error
    plain = fit(sample.views, options=SimulatorOptions(), rounds=0)
    assert np.mean(list(plain.error.values())) > 3 * np.mean(list(fitted.error.values()))


# --- the command --------------------------------------------------------------------------------


def test_command_fits_writes_and_draws(tmp_path, capsys):
    log, fitted, plot = (str(tmp_path / name) for name in ("log.csv", "fit.json", "beside.png"))
    write_log(log, OPTIONS, progress=False)
    assert main(["--fit", log, "--output", fitted, "--rounds", "0", "--mean_events", "70"]) == 0
    assert "off by" in capsys.readouterr().out
    content = json.loads(open(fitted).read())
    assert content["options"]["mean_events"] == 70 and content["options"]["users"] == 150
    assert set(content) == {"options", "real", "simulated", "error"}
    assert like(fitted, users=9) == SimulatorOptions(**{**content["options"], "users": 9})
    again = str(tmp_path / "again.csv.gz")
    assert main(["--like", fitted, "--users", "40", "--output", again, "--plot", plot]) == 0
    assert "40 users" in capsys.readouterr().out
    assert os.path.getsize(plot) > 20_000
    assert np.unique([line.split(b",")[0] for line in gzip.open(again)]).size == 40
    truth = json.load(open(f"{again}.truth.json"))
    assert truth["options"] == {**content["options"], "users": 40}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Nothing to do"),
        (["--like", "amazon", "--output", "x"], "'amazon'.*checkins, taobao"),
        (["--like", "broken.json", "--output", "x"], "broken.json holds no parameters"),
        (["--like", "other.json", "--output", "x"], r"does not know: \['speed'\]"),
        (["--plot", "x.png"], "--like or --fit"),
        (["--fit", "missing.csv", "--output", "x"], "missing.csv"),
        (["--fit", "tiny.csv", "--output", "x"], "Received: 1 users"),
        (["--fit", "tiny.csv", "--columns", "when=a", "--output", "x"], "Received: when=a"),
        (["--output", "x", "--workers", "0"], "workers=0"),
    ],
)
def test_command_names_what_is_wrong(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"options": {"speed": 3}}')
    (tmp_path / "tiny.csv").write_text("1,2,3,pv,4\n")
    before = sorted(os.listdir())
    assert main([*arguments, "--quiet"]) == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert sorted(os.listdir()) == before
