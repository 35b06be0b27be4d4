"""Results that Python has no value for are shown all the same."""

from __future__ import annotations

import csv
import io
import json

import pytest

from mixture import Store
from mixture.console.output import print_table

# In SQL, and as it is shown. Python's dates are of the years 1 to 9999.
DATES = {
    "DATE '9999-12-31' + 5": "10000-01-05",
    "DATE 'infinity'": "infinity",
    "DATE '-infinity'": "-infinity",
    "TIMESTAMP '12000-01-02 03:04:05'": "12000-01-02 03:04:05.000000",
    "TIMESTAMP_NS '2020-01-02 03:04:05'": "2020-01-02 03:04:05",
    "TIMESTAMP '-infinity'": "-infinity",
    "TIMESTAMPTZ 'infinity'": "infinity",
    "TIMESTAMPTZ '12000-01-01 00:00:00+00'": "12000-01-01 00:00:00.000000+00:00",
    "DATE '2020-01-02'": "2020-01-02",
}


@pytest.mark.parametrize("query", DATES)
def test_dates_of_any_year_are_shown(small_store: Store, query: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = small_store.sql(f"SELECT {query} AS d, [{query}] AS many, {{'at': [{query}]}} AS deep, NULL AS nothing")
    print_table(found, "json")
    shown = DATES[query]
    assert json.loads(capsys.readouterr().out) == [
        {"d": shown, "many": [shown], "deep": {"at": [shown]}, "nothing": None}
    ]
    print_table(found, "table")
    assert f" {shown} ┃ [{shown}] ┃ {{at: [{shown}]}} ".replace("┃", "│") in capsys.readouterr().out


def test_csv_has_them_too(small_store: Store, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    found = small_store.sql(
        """SELECT TIMESTAMP 'infinity' AS t, [DATE 'infinity'] AS d, NULL::TIMESTAMP AS n, INTERVAL 5 DAYS AS i
           UNION ALL SELECT TIMESTAMP '2020-01-02', [], NULL, NULL"""
    )
    print_table(found, "csv")
    first, *rows = csv.reader(io.StringIO(capfdbinary.readouterr().out.decode()))
    assert first == ["t", "d", "n", "i"]
    assert rows == [
        ["infinity", '["infinity"]', "", "MonthDayNano(months=0, days=5, nanoseconds=0)"],
        ["2020-01-02 00:00:00", "[]", "", ""],
    ]
