"""The methods of google.datastore.v1.Datastore: request message in, response out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from grpc import StatusCode

from tests.support.datastore import protos
from tests.support.datastore.aggregations import aggregate
from tests.support.datastore.database import Database, Reading
from tests.support.datastore.errors import Refused, invalid, unimplemented
from tests.support.datastore.keys import (
    read_key,
    read_partition,
    require_complete,
    require_writable,
)
from tests.support.datastore.limits import Limits
from tests.support.datastore.mutations import read_mutations
from tests.support.datastore.plans import Plan, needs_composite_index, read_plan
from tests.support.datastore.queries import batch_of, fill_result
from tests.support.datastore.transactions import Transaction

Finished = protos.QueryResultBatch.MoreResultsType
FINISHED = (Finished.NO_MORE_RESULTS, Finished.MORE_RESULTS_AFTER_CURSOR)


class Service:
    """All databases of all projects. Not thread safe: one call at a time."""

    def __init__(
        self, limits: Limits, *, clock: Callable[[], float], composite_indexes: bool
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._composite_indexes = composite_indexes
        self._databases: dict[tuple[str, str], Database] = {}

    def expire_transactions(self) -> None:
        for database in self._databases.values():
            database.transactions.end_all()

    def lookup(self, request: protos.LookupRequest) -> protos.LookupResponse:
        if request.HasField("property_mask"):
            unimplemented("property masks")
        if len(request.keys) > self._limits.lookup:
            invalid(f"A lookup has at most {self._limits.lookup} keys.")
        database = self._database(request)
        keys = {
            require_complete(read_key(key, database.home, self._limits))
            for key in request.keys
        }
        reading = self._read(database, request)
        response = protos.LookupResponse(transaction=reading.begun)
        size = 0
        for key in keys:
            record = database.get(key, reading)
            size += record.entity.ByteSize() if record else 0
            if size > self._limits.response and response.found:
                response.deferred.append(key.message())
            elif record:
                fill_result(response.found.add(), record)
            else:
                missing = response.missing.add(version=max(reading.version, 1))
                missing.entity.key.CopyFrom(key.message())
        return response

    def run_query(self, request: protos.RunQueryRequest) -> protos.RunQueryResponse:
        if request.HasField("explain_options") or request.HasField("property_mask"):
            unimplemented("explain options and property masks")
        database = self._database(request)
        plan = self._plan(database, request, request.query)
        reading = self._read(database, request)
        rows = database.rows(plan, reading)
        batch = batch_of(plan, rows, self._limits)
        batch.snapshot_version = reading.version
        taken = batch.skipped_results + len(batch.entity_results)
        database.remember(
            plan, rows[:taken], reading, exhausted=batch.more_results in FINISHED
        )
        return protos.RunQueryResponse(batch=batch, transaction=reading.begun)

    def run_aggregation_query(
        self, request: protos.RunAggregationQueryRequest
    ) -> protos.RunAggregationQueryResponse:
        if request.HasField("explain_options"):
            unimplemented("explain options")
        database = self._database(request)
        query = request.aggregation_query
        plan = self._plan(database, request, query.nested_query)
        reading = self._read(database, request)
        rows = database.rows(plan, reading)
        end = None if plan.limit is None else plan.offset + plan.limit
        cut = end is not None and end <= len(rows)
        database.remember(plan, rows[:end], reading, exhausted=not cut)
        response = protos.RunAggregationQueryResponse(transaction=reading.begun)
        response.batch.aggregation_results.append(
            aggregate(query.aggregations, rows[plan.offset : end])
        )
        response.batch.more_results = Finished.NO_MORE_RESULTS
        return response

    def begin_transaction(
        self, request: protos.BeginTransactionRequest
    ) -> protos.BeginTransactionResponse:
        transaction = self._database(request).begin(request.transaction_options)
        return protos.BeginTransactionResponse(transaction=transaction.name)

    def rollback(self, request: protos.RollbackRequest) -> protos.RollbackResponse:
        self._database(request).transactions.end(request.transaction)
        return protos.RollbackResponse()

    def commit(self, request: protos.CommitRequest) -> protos.CommitResponse:
        database = self._database(request)
        transactional = request.mode != protos.CommitRequest.Mode.NON_TRANSACTIONAL
        if not transactional and request.WhichOneof("transaction_selector"):
            invalid("A non-transactional commit takes no transaction.")
        transaction = self._transaction(database, request) if transactional else None
        changes = read_mutations(request.mutations, database.home, self._limits)
        if not transactional:
            results = database.commit_separately(changes)
            return protos.CommitResponse(mutation_results=results)
        results = database.commit(changes, transaction)
        response = protos.CommitResponse(mutation_results=results)
        response.commit_time.FromMicroseconds(database.latest)
        return response

    def allocate_ids(
        self, request: protos.AllocateIdsRequest
    ) -> protos.AllocateIdsResponse:
        database = self._database(request)
        keys = [read_key(key, database.home, self._limits) for key in request.keys]
        allocated = [database.allocate(require_writable(key)) for key in keys]
        return protos.AllocateIdsResponse(keys=[key.message() for key in allocated])

    def reserve_ids(
        self, request: protos.ReserveIdsRequest
    ) -> protos.ReserveIdsResponse:
        database = self._database(request)
        for message in request.keys:
            key = read_key(message, database.home, self._limits)
            database.reserve(require_complete(key))
        return protos.ReserveIdsResponse()

    def _database(self, request: Any) -> Database:
        project, name = request.project_id, request.database_id
        if not project:
            invalid("The request names no project.")
        if name == "(default)":
            invalid("The default database is named by the empty string.")
        if request.ByteSize() > self._limits.request:
            invalid(
                f"Request payload size exceeds the limit: {self._limits.request} bytes."
            )
        if (project, name) not in self._databases:
            self._databases[project, name] = Database(
                project, name, limits=self._limits, clock=self._clock, now=_microseconds
            )
        return self._databases[project, name]

    def _read(self, database: Database, request: Any) -> Reading:
        if request.read_options.HasField("read_time"):
            unimplemented("reads at a time")
        return database.read(request.read_options)

    def _plan(self, database: Database, request: Any, query: protos.Query) -> Plan:
        if request.HasField("gql_query"):
            unimplemented("GQL")
        home = read_partition(request.partition_id, database.home)
        plan = read_plan(query, home, self._limits)
        if not self._composite_indexes and needs_composite_index(plan):
            raise Refused(
                StatusCode.FAILED_PRECONDITION,
                "no matching index found: this query needs a composite index.",
            )
        return plan

    def _transaction(
        self, database: Database, request: protos.CommitRequest
    ) -> Transaction:
        """The one that the commit ends, whatever comes of the commit."""
        selector = request.WhichOneof("transaction_selector")
        if selector == "transaction":
            return database.transactions.end(request.transaction)
        if selector is None:
            invalid("A transactional commit needs a transaction.")
        begun = database.begin(request.single_use_transaction)
        return database.transactions.end(begun.name)


def _microseconds() -> int:
    return time.time_ns() // 1000
