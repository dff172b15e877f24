from support.engines import request, score_request

from axolotl_safety.engines.local.backlog import Backlog, Ledger


def names(pairs):
    return [request.request_id for _, request in pairs]


def to_send(ledger, share=None):
    return list(iter(lambda: ledger.next_to_send(share), None))


def numbers(ledger):
    return {request.request_id: number for number, request in to_send(ledger)}


def test_longest_first_models_together_and_the_window_bounds_what_is_sent():
    asked = [request("short", new=1), request("long", new=9), request("guard", model="guard0", new=99)]
    asked += [score_request("score", response=(1,) * 5)]
    backlog = Backlog(asked)
    ledger = Ledger(backlog, window=3)
    sent = to_send(ledger)
    assert names(sent) == ["long", "score", "short"]
    assert names(to_send(ledger)) == []
    ledger.finished(sent[0][0])
    assert names(to_send(ledger)) == ["guard"]
    assert backlog.models == ("target", "guard0")


def test_a_crash_loses_nothing_and_tries_the_active_ones_alone():
    ledger = Ledger(Backlog([request(name) for name in "abcd"]), window=3)
    sent = numbers(ledger)
    ledger.started([sent["a"], sent["b"]])
    assert ledger.crashed("x") is None
    for name in "ab":
        (pair,) = to_send(ledger)
        assert pair[1].request_id == name
        assert to_send(ledger) == []  # nothing beside a suspect
        ledger.started([pair[0]])
        ledger.finished(pair[0])
    assert names(to_send(ledger)) == ["c", "d"]


def test_the_one_that_kills_alone_is_poisoned_and_the_next_suspect_follows():
    backlog = Backlog([request(name) for name in "abc"])
    ledger = Ledger(backlog, window=9)
    sent = numbers(ledger)
    ledger.started(sent.values())
    ledger.crashed("first")
    ((number, first),) = to_send(ledger)
    ledger.started([number])
    poisoned = ledger.crashed("SIGKILL")
    assert (poisoned.request_id, poisoned.reason) == (first.request_id, "poisoned") and "SIGKILL" in poisoned.message
    assert len(to_send(ledger)) == 1 and backlog.unanswered == 2


def test_a_crash_before_the_suspect_was_touched_does_not_convict_it():
    ledger = Ledger(Backlog([request("a")]), window=9)
    ledger.started(numbers(ledger).values())
    ledger.crashed("first")
    assert names(to_send(ledger)) == ["a"]
    assert ledger.crashed("while starting") is None
    assert names(to_send(ledger)) == ["a"]


def test_results_of_an_earlier_run_are_ignored():
    backlog = Backlog([request("a")], first_number=7)
    ledger = Ledger(backlog, window=9)
    assert names(to_send(ledger)) == ["a"]
    assert ledger.finished(3) is None
    assert ledger.finished(7).request_id == "a"
    assert ledger.finished(7) is None and backlog.unanswered == 0


def test_two_lanes_share_one_backlog_and_no_lane_takes_more_than_its_share():
    backlog = Backlog([request(name) for name in "abcdef"])
    one, two = Ledger(backlog, window=9), Ledger(backlog, window=9)
    assert names(to_send(one, share=3)) == ["a", "b", "c"] and names(to_send(two, share=2)) == ["d", "e"]
    one.finished(0)
    assert names(to_send(one, share=3)) == ["f"] and backlog.unanswered == 5


def test_a_crash_in_one_lane_leaves_the_other_alone():
    backlog = Backlog([request(name) for name in "abcd"])
    one, two = Ledger(backlog, window=2), Ledger(backlog, window=1)
    sent = numbers(one)
    assert names(to_send(two)) == ["c"]
    one.started([sent["a"]])
    one.crashed("x")
    two.finished(2)
    assert names(to_send(two)) == ["b"]  # never touched: anybody's
    assert names(to_send(one)) == ["a"]  # suspected: alone, in this lane


def test_a_lane_that_is_given_up_hands_everything_back_in_order():
    backlog = Backlog([request(name) for name in "abcd"])
    one, two = Ledger(backlog, window=3), Ledger(backlog, window=9)
    sent = numbers(one)
    one.started([sent["a"], sent["b"]])
    one.crashed("x")
    to_send(one)  # the first suspect goes on trial
    one.hand_back()
    assert one.in_flight == 0 and backlog.unanswered == 4
    assert names(to_send(two)) == ["a", "b", "c", "d"]
    assert to_send(one) == []
