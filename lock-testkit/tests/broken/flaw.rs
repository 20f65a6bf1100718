//! Everything that is wrong with some backend of the zoo.

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    Nothing,
    // exclusion
    GrantsWhatIsHeld,
    ProlongsWhenBusy,
    ChecksThenSets,
    BusyIsAnError,
    WaitsForTheHolder,
    OneOwnerPerClient,
    // expiry
    NeverEnds,
    RoundsTheTtlDown,
    HasNoEnd,
    EndsEarly,
    CountsFromTheFirstAttempt,
    CapsTheTtlAtAnHour,
    SetsThenExpires,
    // ownership
    KeepsTheEntryOnRelease,
    DeletesWithoutComparing,
    ComparesTheTokenOnly,
    SaysHeldTwice,
    SaysAbsentButDeletes,
    OwnedByTheTask,
    // renewal
    RenewsNothing,
    RenewsForStrangers,
    Resurrects,
    AtLeastShortens,
    ExactlyIsAtLeast,
    RenewsForNoMoreThanThirtySeconds,
    RenewsByReleasingAndTakingAgain,
    RenewalsAddUp,
    RenewsWhatIsGone,
    AnswersInAnyOrder,
    OneErrorFailsAll,
    // fencing
    GivesOneTokenForEver,
    CountsInTheEntry,
    ClaimsTooManyTokens,
    CountsNanoseconds,
    // waiting
    WakesNobody,
    IsDeafBeforeTheWait,
    LosesTheWakeUpOfADroppedWait,
    UnsubscribesAll,
    ListensForTrimmedNames,
    // names
    RefusesControlCharacters,
    IgnoresCase,
    CutsAtNul,
    TrimsNames,
    LocksNamesWithoutPrefix,
    CutsLongKeys,
    // hand-over
    HandsOverFromAnybody,
    HandsOverWhatIsFree,
    RefusesARepeatedHandOver,
    // lifecycle
    RepeatsShorten,
    RepeatsAreBusy,
    RepeatsGetNewTokens,
    HidesTheLabel,
    InspectionDeletes,
    DeclaresWakeUpsInVain,
    StaysLockedWhenDropped,
    LeavesATask,
    NeedsManyThreads,
    ClaimsOrder,
    HidesFencing,
    // errors
    PrintsOwners,
    TellsTheOwnerAsTheLabel,
    CallsAConflictBusy,
    CallsARefusalBusy,
    CallsARefusalAbsent,
}
