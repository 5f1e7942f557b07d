"""The error that users see. Imports nothing, so that a mistake on the command line does not load JAX first."""


class JaxsepError(ValueError):
    """Something a user can mend: one line that names the file, key or shape and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class CommonError(JaxsepError):
    """One that all processes of a training raise at the same moment, so that none has to tell the others."""
