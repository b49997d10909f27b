"""Which row of a leaderboard gets a star."""

from results.boards import board_rows


def test_no_star_without_a_rival_and_none_on_a_useless_result():
    def made(method, ratio, place, recovery):
        return {"method": method, "ratio": ratio, "place": place, "recovery": recovery}

    best, second = made("svd", 0.2, 1, 0.9), made("magnitude", 0.2, 2, 0.5)
    wreck, worse = made("svd", 0.5, 1, 0.1), made("magnitude", 0.5, 2, 0.05)
    dense, alone = made("dense", 0.0, 1, 1.0), made("svd", 0.7, 1, 0.8)
    unknown, other = made("svd", 0.8, 1, None), made("magnitude", 0.8, 2, None)
    rows = [dense, best, second, wreck, worse, alone, unknown, other]
    assert [row for row in rows if board_rows.is_best(row, rows)] == [best, unknown]
