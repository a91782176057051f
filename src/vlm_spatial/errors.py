"""The one exception for anything a user can put right."""


class UserError(Exception):
    """Bad input, said in one line: the file or key, what was found, what is allowed.

    Stages and the command line print it without a traceback and exit with status 1.
    """
