"""Work on several threads."""

from threading import Thread

from landmark.parallel import unattended_map


def test_whatever_a_function_raises_is_raised_and_nothing_waits_for_its_result():
    raised = []

    def run():
        try:
            list(unattended_map(lambda _: [][0], [1, 2], 2))
        except IndexError as error:  # as of a queue that is empty
            raised.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert raised
