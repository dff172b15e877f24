from support.engines import request, score_request

from axolotl_safety.engines.local.backlog import Backlog, Ledger


def backlog_of(*requests):
    backlog = Backlog()
    for number, one in enumerate(requests):
        backlog.add(number, one)
    return backlog


def names(pairs):
    return [request.request_id for _, request in pairs]


def to_send(ledger, replicas=1):
    return list(iter(lambda: ledger.next_to_send(replicas), None))


def numbers(ledger):
    return {request.request_id: number for number, request in to_send(ledger)}


def test_each_model_has_a_window_of_its_own_and_keeps_its_order():
    asked = [request(name) for name in "abcd"] + [score_request("score", response=(1,) * 5)]
    backlog = backlog_of(*asked, *(request(f"guard {n}", model="guard0") for n in range(4)))
    ledger = Ledger(backlog, window=3)
    sent = to_send(ledger)
    assert names(sent) == ["a", "b", "c", "guard 0", "guard 1", "guard 2"]
    ledger.finished(sent[0][0])
    assert names(to_send(ledger)) == ["d"]
    assert backlog.unanswered == {"target": 4, "guard0": 4}


def test_a_crash_loses_nothing_and_tries_the_active_ones_alone():
    ledger = Ledger(backlog_of(*(request(name) for name in "abcd")), window=3)
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
    backlog = backlog_of(*(request(name) for name in "abc"))
    ledger = Ledger(backlog, window=9)
    sent = numbers(ledger)
    ledger.started(sent.values())
    ledger.crashed("first")
    ((number, first),) = to_send(ledger)
    ledger.started([number])
    place, poisoned = ledger.crashed("SIGKILL")
    assert place == number and (poisoned.request_id, poisoned.reason) == (first.request_id, "poisoned")
    assert "SIGKILL" in poisoned.message
    assert len(to_send(ledger)) == 1 and backlog.unanswered["target"] == 2


def test_a_crash_before_the_suspect_was_touched_does_not_convict_it():
    ledger = Ledger(backlog_of(request("a")), window=9)
    ledger.started(numbers(ledger).values())
    ledger.crashed("first")
    assert names(to_send(ledger)) == ["a"]
    assert ledger.crashed("while starting") is None
    assert names(to_send(ledger)) == ["a"]


def test_results_of_what_was_cancelled_are_ignored():
    backlog = Backlog()
    backlog.add(7, request("a"))
    ledger = Ledger(backlog, window=9)
    assert names(to_send(ledger)) == ["a"]
    assert ledger.finished(3) is None
    assert ledger.finished(7).request_id == "a"
    assert ledger.finished(7) is None and backlog.unanswered["target"] == 0


def test_two_replicas_share_one_backlog_and_none_takes_more_than_its_part():
    backlog = backlog_of(*(request(name) for name in "abcdef"))
    one, two = Ledger(backlog, window=9), Ledger(backlog, window=9)
    assert names(to_send(one, 2)) == ["a", "b", "c"] and names(to_send(two, 3)) == ["d", "e"]
    one.finished(0)
    assert names(to_send(one, 2)) == ["f"] and backlog.unanswered["target"] == 5


def test_a_crash_in_one_replica_leaves_the_other_alone():
    backlog = backlog_of(*(request(name) for name in "abcd"))
    one, two = Ledger(backlog, window=2), Ledger(backlog, window=1)
    sent = numbers(one)
    assert names(to_send(two)) == ["c"]
    one.started([sent["a"]])
    one.crashed("x")
    two.finished(2)
    assert names(to_send(two)) == ["b"]  # never touched: anybody's
    assert names(to_send(one)) == ["a"]  # suspected: alone, in this replica


def test_a_replica_that_is_given_up_hands_everything_back_in_order():
    backlog = backlog_of(*(request(name) for name in "abcd"))
    one, two = Ledger(backlog, window=3), Ledger(backlog, window=9)
    sent = numbers(one)
    one.started([sent["a"], sent["b"]])
    one.crashed("x")
    to_send(one)  # the first suspect goes on trial
    one.hand_back()
    assert one.in_flight == 0 and backlog.unanswered["target"] == 4
    assert names(to_send(two)) == ["a", "b", "c", "d"]
    assert to_send(one) == []
