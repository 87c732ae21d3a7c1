"""What Personalizer's users rely on, row by row, and the test that holds it here.

In the order of the interface: calls, Rank, Reward and Activate, slots, configuration, semantics,
errors. A row is held by a test of this folder or of another one, or is not offered, with the error
that says so. `test_rows` checks that the tests exist, and that no field, call or code lacks a row.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Part = Literal["calls", "rank", "reward", "slots", "configuration", "semantics", "errors"]
NOT_OFFERED = "not offered: 403 OperationNotAllowed"
EACH_CALL = "test_conformance.py::test_each_call_answers_as_it_should"


class Row(NamedTuple):
    """One thing that a client of Personalizer may rely on.

    Attributes:
        part: Of the interface.
        what: It, in a few words; of `calls` the method and path, of `errors` the code.
        held: The test that holds it, or why it is not there.
        fields: The fields of bodies that it is about.
    """

    part: Part
    what: str
    held: str
    fields: tuple[str, ...] = ()


def _calls(held: str, *names: str) -> list[Row]:
    return [Row("calls", name, held) for name in names]


def _codes(held: str, *names: str) -> list[Row]:
    return [Row("errors", name, held) for name in names]


_LISTED = "test_rank.py::test_a_rank_lists_every_action_once_with_the_logged_probabilities"
_WRONG_RANK = "test_rank.py::test_a_wrong_rank_is_refused_with_its_place"
_WRONG_SLOTS = "test_multislot.py::test_wrong_slots_are_refused"
_WRITTEN = "test_configuration.py::test_a_configuration_is_read_and_written_back"
_WRONG_SETTINGS = "test_configuration.py::test_a_wrong_configuration_changes_nothing"
_NOT_USED = "test_configuration.py::test_what_is_not_used_is_named"
_FIXED = "test_rows.py::test_settings_that_are_not_there_are_answered_as_they_are_here"
_APPRENTICE = "test_configuration.py::test_an_apprentice_serves_the_callers_first_action_and_learns"
_ONE_EVENT = "test_rank.py::test_the_tries_of_one_request_are_one_event"
_DEFERRED = "test_rank.py::test_a_deferred_event_counts_once_it_is_activated"
_GIVEN_EARLIER = (
    "test_multislot.py::test_the_propensity_of_a_slot_is_its_probability_given_the_slots_before_it"
)
_BOTH_KINDS = (
    "test_configuration.py::"
    "test_an_action_outside_its_dates_stands_where_it_was_sent_with_probability_0"
)
_ONE_SHAPE = "test_errors.py::test_errors_have_one_shape"
_KEYS = "test_errors.py::test_keys_are_asked_for_as_personalizer_does"
_NO_EVALUATIONS = "not given: evaluations are not offered"
_NO_POLICIES = "not given: policies of Vowpal Wabbit are not offered"
_NO_MODELS = "not given: models of Vowpal Wabbit are not offered"
_NO_MIRROR = "not given: logs are not mirrored, InvalidServiceConfiguration says so"

ROWS: list[Row] = [
    *_calls(
        EACH_CALL,
        "POST /rank", "POST /events/e/reward", "POST /events/e/activate", "POST /multislot/rank",
        "POST /multislot/events/e/reward", "POST /multislot/events/e/activate",
        "GET /configurations/service", "PUT /configurations/service", "DELETE /model",
        "GET /model/properties",
    ),
    *_calls(
        NOT_OFFERED,
        "GET /configurations/policy", "PUT /configurations/policy",
        "DELETE /configurations/policy", "POST /configurations/applyFromEvaluation",
        "GET /model", "PUT /model", "GET /logs/properties", "DELETE /logs",
        "POST /logs/interactions", "POST /logs/observations", "GET /metrics/learning",
        "GET /evaluations", "POST /evaluations", "GET /evaluations/e", "DELETE /evaluations/e",
        "PUT /evaluations/e", "PUT /featureImportances/f", "GET /featureImportances/f",
        "DELETE /featureImportances/f", "GET /featureImportances",
    ),
    # -- Rank ------------------------------------------------------------------------------------
    Row("rank", "contexts are objects, or left out", _WRONG_RANK, ("contextFeatures",)),
    Row("rank", "a Rank without a context is answered", EACH_CALL),
    Row("rank", "1 to 50 actions with ids of their own", _WRONG_RANK, ("actions", "id")),
    Row("rank", "an action has one object of features or more", _WRONG_RANK, ("features",)),
    Row("rank", "ids have any character, 256 at most",
        "test_rank.py::test_ids_have_any_character"),
    Row("rank", "excluded actions keep their place with probability 0",
        "test_rank.py::test_excluded_actions_keep_their_place_with_probability_0",
        ("excludedActions",)),
    Row("rank", "all actions excluded: 400", _WRONG_RANK),
    Row("rank", "an event without an id gets one", _ONE_EVENT,
        ("eventId",)),
    Row("rank", "deferred events", _DEFERRED,
        ("deferActivation",)),
    Row("rank", "every action once, with its probability", _LISTED, ("ranking", "probability")),
    Row("rank", "the one to show is the first that is not excluded", _LISTED, ("rewardActionId",)),
    Row("rank", "the learner's order, the chosen one and the likeliest changed",
        "test_rows.py::test_the_order_is_that_of_the_probabilities"),
    Row("rank", "the same request again has the same answer",
        "test_rank.py::test_an_event_has_one_answer_and_another_body_is_refused"),
    Row("rank", "the same event with another body: 409 here",
        "test_rank.py::test_an_event_has_one_answer_and_another_body_is_refused"),
    Row("rank", "explanations of an inference", "not offered: never in an answer, " + _FIXED),
    # -- Reward and Activate ---------------------------------------------------------------------
    Row("reward", "any number; nothing else", "test_rank.py::test_a_wrong_reward_is_refused",
        ("value",)),
    Row("reward", "unknown events are answered 204",
        "test_rank.py::test_events_that_nobody_knows_are_answered_204_and_counted"),
    Row("reward", "a reward before its activation",
        _DEFERRED),
    Row("reward", "an activation of what is active is harmless",
        _DEFERRED),
    Row("reward", "several rewards are joined by the aggregation",
        "test_configuration.py::test_combined_rewards_count_once_per_request"),
    Row("reward", "without a reward, the default one is learned; never activated, nothing is",
        "test_rows.py::test_what_is_learned_at_the_end_of_the_wait_time"),
    Row("reward", "a reward after the wait time is logged and not learned",
        "test_rows.py::test_what_is_learned_at_the_end_of_the_wait_time"),
    Row("reward", "ids in paths are quoted, slashes too",
        "test_rank.py::test_ids_have_any_character"),
    # -- slots -----------------------------------------------------------------------------------
    Row("slots", "a slot has an id, a baseline, features and exclusions", _WRONG_SLOTS,
        ("slots", "id", "features", "excludedActions", "baselineAction")),
    Row("slots", "ids and baselines differ, no more slots than actions", _WRONG_SLOTS),
    Row("slots", "each action once, in the order of the slots",
        "test_multislot.py::test_each_slot_has_an_action_of_its_own", ("rewardActionId",)),
    Row("slots", "exclusions never leave a later slot empty",
        "test_multislot.py::test_a_slot_takes_what_leaves_all_others_an_action"),
    Row("slots", "a propensity for each slot, given those before it",
        _GIVEN_EARLIER),
    Row("slots", "a reward for each slot, one activation",
        "test_multislot.py::test_each_slot_has_its_reward_and_the_event_its_activation",
        ("reward", "slotId", "value")),
    Row("slots", "context, actions, event and deferral as in Rank",
        "test_sdks.py::test_slots_of_the_newest_python_sdk_are_one_event_through_a_gateway",
        ("contextFeatures", "actions", "eventId", "deferActivation")),
    Row("slots", "one loop answers single and several slots",
        _BOTH_KINDS),
    # -- configuration ---------------------------------------------------------------------------
    Row("configuration", "wait time, ISO 8601 or hours:minutes:seconds", _WRITTEN,
        ("rewardWaitTime",)),
    Row("configuration", "default reward, -1 to 1", _WRITTEN, ("defaultReward",)),
    Row("configuration", "six aggregations", _WRITTEN, ("rewardAggregation",)),
    Row("configuration", "exploration share", _WRITTEN, ("explorationPercentage",)),
    Row("configuration", "learning modes", _APPRENTICE, ("learningMode",)),
    Row("configuration", "counts of an apprentice", _APPRENTICE, ("latestApprenticeModeMetrics",)),
    Row("configuration", "when it was changed", _WRITTEN, ("lastConfigurationEditDate",)),
    Row("configuration", "retention of logs: that of the server", _NOT_USED, ("logRetentionDays",)),
    Row("configuration", "days of retraining: needed in 2022, not used",
        "test_rows.py::test_the_newest_generation_needs_the_days_of_retraining",
        ("modelRetrainDays",)),
    Row("configuration", "mirrors of logs are refused", _WRONG_SETTINGS,
        ("logMirrorEnabled", "logMirrorSasUri")),
    Row("configuration", "what has no counterpart is answered as it is here", _FIXED,
        ("modelExportFrequency", "isAutoOptimizationEnabled", "autoOptimizationFrequency",
         "autoOptimizationStartDate", "isInferenceExplainabilityEnabled")),
    Row("configuration", "six fields are needed in a PUT", _WRONG_SETTINGS),
    Row("configuration", "no change of rewards with a switch of mode", _WRONG_SETTINGS),
    Row("configuration", "a change resets the model",
        "not given: nothing is forgotten, " + _WRITTEN),
    # -- semantics -------------------------------------------------------------------------------
    Row("semantics", "the baseline is the first action that is not excluded", _APPRENTICE),
    Row("semantics", "an apprentice serves the caller's choice", _APPRENTICE),
    Row("semantics", "logging alone serves it and learns nothing",
        "test_configuration.py::test_logging_alone_learns_nothing_whatever_is_activated"),
    Row("semantics", "every action has its share of exploration",
        "test_rows.py::test_every_action_has_its_share_of_exploration"),
    Row("semantics", "a new loop chooses by the draws of its prior",
        "test_rows.py::test_a_new_bandit_chooses_each_action_with_some_probability"),
    Row("semantics", "a loop without actions learned offers what the request has", _LISTED),
    Row("semantics", "too many calls: 429 with Retry-After",
        "test_errors.py::test_slots_count_as_calls_of_a_key"),
    Row("semantics", "a reset model knows nothing",
        "test_configuration.py::test_a_reset_model_knows_nothing_and_the_log_stays"),
    # -- errors ----------------------------------------------------------------------------------
    *_codes(_WRONG_RANK, "InvalidRankRequest"),
    *_codes("test_rank.py::test_a_wrong_reward_is_refused", "InvalidRewardRequest"),
    *_codes("test_rows.py::test_a_wrong_id_of_an_event_to_activate", "InvalidEventIdToActivate"),
    *_codes(
        _WRONG_SETTINGS, "InvalidServiceConfiguration", "InvalidLearningModeServiceConfiguration",
        "InvalidRewardWaitTime",
    ),
    *_codes(
        _ONE_SHAPE, "BadRequest", "ResourceNotFound", "MethodNotAllowed", "UnsupportedMediaType",
        "OperationNotAllowed", "403",
    ),
    *_codes(_KEYS, "401"),
    *_codes("test_errors.py::test_slots_count_as_calls_of_a_key", "429"),
    *_codes(
        "test_errors.py::test_a_key_has_its_bandit_and_creates_it_where_it_may",
        "PayloadSizeExceeded",
    ),
    *_codes(
        "test_rows.py::test_each_status_has_a_code", "RequestTimeout", "Conflict",
        "ServiceUnavailable", "InternalServerError", "ModelResetFailed",
    ),
    *_codes("not given: BadRequest is", "InvalidRequest", "InvalidContract", "MissingAppId"),
    *_codes(
        _NO_POLICIES, "InvalidPolicyConfiguration", "InvalidPolicyContract",
        "DuplicateCustomPolicyNames", "LearningSettingsNotFound",
    ),
    *_codes(
        _NO_EVALUATIONS, "InvalidEvaluationContract", "NoLogsExistInDateRange",
        "LogsSizeExceedAllowedLimit", "EvaluationAlreadyExists", "EvaluationNotFound",
        "EvaluationModelNotFound", "IncompatibleEvaluationVersion",
        "ProblemTypeIncompatibleWithAutoOptimization", "FeatureImportanceAlreadyExists",
        "FeatureImportanceNotFound", "LogsPropertiesNotFound",
    ),
    *_codes(_NO_MIRROR, "InvalidSasUri", "InvalidContainer"),
    *_codes(
        _NO_MODELS, "InvalidModelMetadata", "InvalidModelImportSignature",
        "InvalidModelImportFormat", "ModelFileAccessDenied",
    ),
    *_codes(
        "not given: any retention and days are taken, a header names what is not used",
        "InvalidModelRetrainDays", "InvalidLogRetentionDays",
    ),
    *_codes(
        "not given: one loop answers single and several slots", "InvalidMultiSlotApiAccess",
        "InvalidApiAccess",
    ),
    *_codes("not given: the mode begins with the setting", "ApprenticeModeNeverTurnedOn"),
    *_codes(
        "not given: a bandit is asked in its own server", "FrontEndNotFound", "ModelRankingError",
        "RankNullResponse",
    ),
]  # fmt: skip
