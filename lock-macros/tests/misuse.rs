//! Every misuse is told where it stands. After a change: `TRYBUILD=overwrite cargo test -p lock-macros --test misuse`, then
//! read what changed. The words are those of one compiler, the one that CI uses.

#[test]
fn a_misuse_is_told_where_it_stands() {
    trybuild::TestCases::new().compile_fail("tests/misuse/*.rs");
}
