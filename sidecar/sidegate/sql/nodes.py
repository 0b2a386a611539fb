"""Every node class of the grammar has its place here: what it is, which kinds of statement it makes, and how the walk treats it.

Rules it keeps:
- A node without a place is unknown, and so is a node that stands where its place doesn't allow it. Unknown is refused.
- `ANALYSED` nodes are made by PostgreSQL after parsing. They can't come from text; if one does, it is unknown.

docs/coverage/sql.md is made from this table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from sidegate.policy.statement import StatementKind as K


class Place(enum.Enum):
    QUERY = "query"  # SELECT and what changes rows; may stand inside other statements
    UTILITY = "utility"  # a statement of its own
    FROM = "from item"
    EXPRESSION = "expression"  # columns below it steer
    CLAUSE = "clause"  # read by the walk of its owner; its parts are walked as expressions where met elsewhere
    DEFINITION = "definition"  # part of DDL: names are collected, expressions walked
    LEAF = "leaf"  # constants and names without effect of their own
    ANALYSED = "analysed"  # never in a raw parse tree


@dataclass(frozen=True, slots=True)
class Placement:
    place: Place
    kinds: frozenset[K] = frozenset()
    note: str = ""


def _place(place: Place, names: str) -> dict[str, Placement]:
    return {name: Placement(place) for name in names.split()}


def _utility(names: str, *kinds: K, note: str = "") -> dict[str, Placement]:
    return {name: Placement(Place.UTILITY, frozenset(kinds), note) for name in names.split()}


PLACEMENTS: Final[dict[str, Placement]] = {
    "SelectStmt": Placement(Place.QUERY, frozenset({K.READ}), "with INTO also DDL, with row locking also SelectForUpdate"),
    "InsertStmt": Placement(
        Place.QUERY, frozenset({K.INSERT}), "with ON CONFLICT DO UPDATE also Update, with RETURNING also Read"
    ),
    "UpdateStmt": Placement(Place.QUERY, frozenset({K.UPDATE}), "with FROM or RETURNING also Read"),
    "DeleteStmt": Placement(Place.QUERY, frozenset({K.DELETE}), "with USING or RETURNING also Read"),
    "MergeStmt": Placement(Place.QUERY, frozenset({K.MERGE, K.READ}), "and the kinds of its actions"),
    **_place(Place.FROM, "RangeVar RangeSubselect RangeFunction RangeTableFunc RangeTableSample JoinExpr JsonTable"),
    **_place(
        Place.EXPRESSION,
        """A_ArrayExpr A_Expr A_Indices A_Indirection BoolExpr BooleanTest CaseExpr CaseWhen CoalesceExpr CollateClause ColumnRef
        CurrentOfExpr FuncCall GroupingFunc JsonAggConstructor JsonArgument JsonArrayAgg JsonArrayConstructor JsonArrayQueryConstructor
        JsonBehavior JsonFuncExpr JsonIsPredicate JsonKeyValue JsonObjectAgg JsonObjectConstructor JsonOutput JsonParseExpr JsonReturning
        JsonScalarExpr JsonSerializeExpr JsonTableColumn JsonTablePathSpec JsonValueExpr MergeSupportFunc MinMaxExpr MultiAssignRef
        NamedArgExpr NullTest RangeTableFuncCol RowExpr SQLValueFunction SortBy SubLink TypeCast TypeName WindowDef XmlExpr XmlSerialize""",
    ),
    **_place(
        Place.CLAUSE,
        """CTECycleClause CTESearchClause CommonTableExpr GroupingSet IndexElem InferClause IntoClause LockingClause MergeWhenClause
        OnConflictClause RawStmt ResTarget ReturnStmt ReturningClause ReturningOption WithClause""",
    ),
    **_place(
        Place.DEFINITION,
        """AccessPriv AlterTableCmd ATAlterConstraint ColumnDef Constraint CreateOpClassItem DefElem FunctionParameter ObjectWithArgs
        PartitionBoundSpec PartitionCmd PartitionElem PartitionRangeDatum PartitionSpec PublicationObjSpec PublicationTable
        ReplicaIdentityStmt RoleSpec StatsElem TableLikeClause TriggerTransition VacuumRelation""",
    ),
    **_place(
        Place.LEAF,
        "A_Const A_Star Alias BitString Boolean Float Integer JsonFormat ParamRef SetToDefault String ValUnion",
    ),
    **_place(
        Place.ANALYSED,
        """Aggref AlternativeSubPlan ArrayCoerceExpr ArrayExpr CallContext CaseTestExpr CoerceToDomain CoerceToDomainValue CoerceViaIO
        CollateExpr ConvertRowtypeExpr Expr FieldSelect FieldStore FromExpr FuncExpr InferenceElem InlineCodeBlock JsonConstructorExpr
        JsonExpr MergeAction OnConflictExpr OpExpr PLAssignStmt Param Query RTEPermissionInfo RangeTblEntry RangeTblFunction RangeTblRef
        RelabelType ReturningExpr RowCompareExpr RowMarkClause ScalarArrayOpExpr SetOperationStmt SortGroupClause SubPlan SubscriptingRef
        TableFunc TableSampleClause TargetEntry Var WindowClause WindowFunc WindowFuncRunCondition WithCheckOption""",
    ),
    # Statements that hold a query
    **_utility(
        "ExplainStmt",
        K.EXPLAIN,
        note="with ANALYZE all of what it explains; without, only what its functions may do while it is planned",
    ),
    **_utility("PrepareStmt", K.SESSION, note="and the kinds of its query"),
    **_utility("ExecuteStmt", K.SESSION, note="`executes` names it; what it does is known to the session that prepared it"),
    **_utility("DeallocateStmt", K.SESSION),
    **_utility("DeclareCursorStmt", K.CURSOR, note="and the kinds of its query"),
    **_utility("FetchStmt ClosePortalStmt", K.CURSOR),
    **_utility("CopyStmt", note="STDIN: CopyIn and Insert; STDOUT: CopyOut and Read; files and programs: Server"),
    **_utility("CreateTableAsStmt", K.DDL, note="and the kinds of its query"),
    **_utility("ViewStmt RuleStmt", K.DDL, note="their queries are walked, and stored, not run"),
    **_utility("DoStmt", K.DO, note="Server too in a language other than SQL and PL/pgSQL"),
    **_utility("CallStmt", K.CALL),
    # Transactions and the session
    **_utility("TransactionStmt", K.TRANSACTION, note="two-phase commit is Server"),
    **_utility("ConstraintsSetStmt", K.TRANSACTION),
    **_utility("VariableSetStmt", note="Session for harmless settings, Roles for who one is, otherwise Settings"),
    **_utility("VariableShowStmt DiscardStmt", K.SESSION),
    **_utility("ListenStmt UnlistenStmt", K.LISTEN),
    **_utility("NotifyStmt", K.NOTIFY),
    **_utility("LockStmt", note="Lock; in ACCESS SHARE mode Read: the lock that every SELECT takes"),
    **_utility("TruncateStmt", K.TRUNCATE),
    # Maintenance
    **_utility("VacuumStmt ClusterStmt ReindexStmt RefreshMatViewStmt CheckPointStmt", K.MAINTENANCE),
    # Roles and rights
    **_utility(
        "GrantStmt GrantRoleStmt CreateRoleStmt AlterRoleStmt DropRoleStmt AlterDefaultPrivilegesStmt ReassignOwnedStmt", K.ROLES
    ),
    **_utility("AlterRoleSetStmt", K.ROLES, K.SETTINGS),
    **_utility("AlterOwnerStmt DropOwnedStmt CreatePolicyStmt AlterPolicyStmt SecLabelStmt", K.ROLES, K.DDL),
    # The server itself, other servers, code that runs as the server
    **_utility("AlterSystemStmt", K.SERVER, K.SETTINGS),
    **_utility("LoadStmt", K.SERVER),
    **_utility("AlterDatabaseSetStmt", K.SERVER, K.SETTINGS),
    **_utility(
        """CreatedbStmt DropdbStmt AlterDatabaseStmt AlterDatabaseRefreshCollStmt CreateTableSpaceStmt DropTableSpaceStmt
        AlterTableSpaceOptionsStmt AlterTableMoveAllStmt CreateExtensionStmt AlterExtensionStmt AlterExtensionContentsStmt CreatePLangStmt
        CreateAmStmt CreateFdwStmt AlterFdwStmt CreateForeignServerStmt AlterForeignServerStmt CreateForeignTableStmt
        CreateUserMappingStmt AlterUserMappingStmt DropUserMappingStmt ImportForeignSchemaStmt CreateEventTrigStmt AlterEventTrigStmt
        CreateCastStmt CreateTransformStmt""",
        K.SERVER,
        K.DDL,
    ),
    **_utility("CreatePublicationStmt AlterPublicationStmt", K.REPLICATION, K.DDL),
    **_utility("CreateSubscriptionStmt AlterSubscriptionStmt DropSubscriptionStmt", K.REPLICATION, K.SERVER, K.DDL),
    # Everything else that defines
    **_utility("CreateFunctionStmt", K.DDL, note="bodies in SQL are walked; a language that runs as the server is Server too"),
    **_utility(
        "AlterTableStmt",
        K.DDL,
        note="owners, triggers, rules and row security are Roles too; replica identity is Replication; DETACH and NO INHERIT Delete",
    ),
    **_utility(
        "DropStmt CommentStmt RenameStmt AlterObjectSchemaStmt AlterObjectDependsStmt",
        K.DDL,
        note="and the kinds of its object's type",
    ),
    **_utility(
        """CreateStmt CreateSchemaStmt CreateSeqStmt AlterSeqStmt IndexStmt CreateTrigStmt CreateDomainStmt AlterDomainStmt CreateEnumStmt
        AlterEnumStmt CreateRangeStmt CompositeTypeStmt AlterTypeStmt DefineStmt CreateConversionStmt CreateOpClassStmt CreateOpFamilyStmt
        AlterOpFamilyStmt AlterOperatorStmt AlterFunctionStmt AlterCollationStmt CreateStatsStmt AlterStatsStmt
        AlterTSDictionaryStmt AlterTSConfigurationStmt""",
        K.DDL,
    ),
}


def placement(name: str) -> Placement | None:
    """The node's place; None: nobody has placed it, and it is unknown."""
    return PLACEMENTS.get(name)
