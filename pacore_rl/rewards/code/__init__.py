"""Code rewards: programs run against tests in a sandbox, compared outside it.

    suite.py      what a problem's tests are; shapes.py reads them from the data sets' records
    source.py     from a message to its program
    checkers.py   when an output is right; external.py for checker programs
    grading.py    a program against a suite: the verdict
    reward.py     the reward called "code"

    sandbox.py    one sandbox per submission (our side)     runner.py    a fork per test (inside)
    backends.py   bubblewrap, Landlock, chroot, or refusal  jail.py      Landlock, chroot, limits (inside)
    open_sandboxes.py   those of a scorer, which end with it
    stage.py      what a sandbox can see                    seccomp.py   which system calls a program has (inside)
    attacks.py    programs that try to get out              probe.py     runs them before a backend is trusted

Nothing is imported here: ``runner.py`` and its neighbours are copied into the sandbox, where nothing else exists.
"""
