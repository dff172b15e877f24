from engine_helpers import request, score_request

from axolotl_safety.engines.ledger import Ledger


def names(pairs):
    return [request.request_id for _, request in pairs]


def numbers(ledger):
    return {request.request_id: number for number, request in ledger.to_send()}


def test_longest_first_models_together_and_the_window_bounds_what_is_sent():
    asked = [request("short", new=1), request("long", new=9), request("guard", model="guard0", new=99)]
    asked += [score_request("score", response=(1,) * 5)]
    ledger = Ledger(asked, window=3)
    sent = list(ledger.to_send())
    assert names(sent) == ["long", "score", "short"]
    assert names(ledger.to_send()) == []
    ledger.finished(sent[0][0])
    assert names(ledger.to_send()) == ["guard"]
    assert ledger.models == ("target", "guard0")


def test_a_crash_loses_nothing_and_tries_the_active_ones_alone():
    ledger = Ledger([request(name) for name in "abcd"], window=3)
    sent = numbers(ledger)
    ledger.started([sent["a"], sent["b"]])
    assert ledger.crashed("x") is None
    for name in "ab":
        (pair,) = ledger.to_send()
        assert pair[1].request_id == name
        assert list(ledger.to_send()) == []  # nothing beside a suspect
        ledger.started([pair[0]])
        ledger.finished(pair[0])
    assert names(ledger.to_send()) == ["c", "d"]


def test_the_one_that_kills_alone_is_poisoned_and_the_next_suspect_follows():
    ledger = Ledger([request(name) for name in "abc"], window=9)
    sent = numbers(ledger)
    ledger.started(sent.values())
    ledger.crashed("first")
    ((number, first),) = ledger.to_send()
    ledger.started([number])
    poisoned = ledger.crashed("SIGKILL")
    assert (poisoned.request_id, poisoned.reason) == (first.request_id, "poisoned") and "SIGKILL" in poisoned.message
    assert len(list(ledger.to_send())) == 1 and not ledger.done


def test_a_crash_before_the_suspect_was_touched_does_not_convict_it():
    ledger = Ledger([request("a")], window=9)
    ledger.started(numbers(ledger).values())
    ledger.crashed("first")
    assert names(ledger.to_send()) == ["a"]
    assert ledger.crashed("while starting") is None
    assert names(ledger.to_send()) == ["a"]


def test_results_of_an_earlier_run_are_ignored():
    ledger = Ledger([request("a")], window=9, first_number=7)
    assert names(ledger.to_send()) == ["a"]
    assert ledger.finished(3) is None
    assert ledger.finished(7).request_id == "a"
    assert ledger.finished(7) is None and ledger.done
