"""The raw protobuf classes behind the client's proto-plus wrappers.

They serialise and compare several times faster than the wrappers, and a generic gRPC
handler needs nothing else.
"""

from __future__ import annotations

from google.cloud.datastore_v1 import types

AggregationResult = types.AggregationResult.pb()
AllocateIdsRequest = types.AllocateIdsRequest.pb()
AllocateIdsResponse = types.AllocateIdsResponse.pb()
BeginTransactionRequest = types.BeginTransactionRequest.pb()
BeginTransactionResponse = types.BeginTransactionResponse.pb()
CommitRequest = types.CommitRequest.pb()
CommitResponse = types.CommitResponse.pb()
CompositeFilter = types.CompositeFilter.pb()
Entity = types.Entity.pb()
EntityResult = types.EntityResult.pb()
Filter = types.Filter.pb()
Key = types.Key.pb()
LookupRequest = types.LookupRequest.pb()
LookupResponse = types.LookupResponse.pb()
Mutation = types.Mutation.pb()
MutationResult = types.MutationResult.pb()
PropertyFilter = types.PropertyFilter.pb()
PropertyOrder = types.PropertyOrder.pb()
Query = types.Query.pb()
QueryResultBatch = types.QueryResultBatch.pb()
ReadOptions = types.ReadOptions.pb()
ReserveIdsRequest = types.ReserveIdsRequest.pb()
ReserveIdsResponse = types.ReserveIdsResponse.pb()
RollbackRequest = types.RollbackRequest.pb()
RollbackResponse = types.RollbackResponse.pb()
RunAggregationQueryRequest = types.RunAggregationQueryRequest.pb()
RunAggregationQueryResponse = types.RunAggregationQueryResponse.pb()
RunQueryRequest = types.RunQueryRequest.pb()
RunQueryResponse = types.RunQueryResponse.pb()
TransactionOptions = types.TransactionOptions.pb()
Value = types.Value.pb()
