"""Leaderboards as the page gets them."""

from synthetic import row

from results.boards import ranking


def test_the_leaderboard_that_compares_most_methods_comes_first(empty):
    # One task has two methods (one of them twice), the other three; names say the
    # opposite order.
    for task, name, options in (
        ("a", "svd", "{}"),
        ("a", "svd", '{"group_size": 2}'),
        ("a", "svd", '{"group_size": 4}'),
        ("a", "magnitude", "{}"),
        ("b", "svd", "{}"),
        ("b", "magnitude", "{}"),
        ("b", "wanda", "{}"),
    ):
        trial = f"{task}{name}{options}"
        empty.append(row(trial, task=task, method=name, method_options=options))

    found = [board["task"] for board in ranking.boards(empty)]
    assert found == ["b", "a"]
