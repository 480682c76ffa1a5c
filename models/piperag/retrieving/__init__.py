"""One interface for retrievals beside generation, ``submit(Query) -> Pending``, and four ways to reach whoever answers them.

:mod:`~models.piperag.retrieving.in_process` a thread, :mod:`~models.piperag.retrieving.process` a process of its own (the
default), :mod:`~models.piperag.retrieving.network` a server for several generators,
:mod:`~models.piperag.retrieving.ranks` an index that is sharded over MPI ranks. What they host is a
:class:`~models.piperag.retrieving.backends.BackendSpec`; what a generator does about failures is
:mod:`~models.piperag.retrieving.policy`. Nothing is imported here: a worker sets its threads before it imports numpy.
"""
