//! What build.rs makes of the options in `reason.proto`, and what it refuses.

#[path = "../build/reasons.rs"]
mod reasons;

use protox::{
    Compiler,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver},
};

const FILE: &str = "chargemesh/link/v1/reason.proto";

/// Answers for `reason.proto` with another text.
struct ChangedReasonFile(String);

impl FileResolver for ChangedReasonFile {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == FILE { File::from_source(name, &self.0) } else { Err(protox::Error::file_not_found(name)) }
    }
}

/// The table of `reason.proto` with `value` at its end, or why there is none.
fn table_with(value: &str) -> Result<String, String> {
    let text = include_str!("../chargemesh/link/v1/reason.proto");
    let (enumeration, _) = text.rsplit_once('}').expect("an enumeration");
    let mut resolver = ChainFileResolver::new();
    resolver.add(ChangedReasonFile(format!("{enumeration}{value}\n}}\n")));
    resolver.add(IncludeFileResolver::new(env!("CARGO_MANIFEST_DIR").into()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.open_file(FILE).map_err(|error| format!("{error:?}"))?;
    reasons::table(&compiler.descriptor_pool()).map_err(|error| error.to_string())
}

#[test]
fn a_reason_with_its_class_is_a_line_of_the_table() {
    let value = "REASON_TOO_HOT = 99 [(chargemesh.policy.v1.reason_class) = {
        words: \"it is \\\"too\\\" hot\" grpc_code: ABORTED http_status: 409 retry: AFTER_A_PERSON_ACTS
        ends_a_supply: true
    }];";
    let table = table_with(value).unwrap();
    let line = "Self::TooHot => &ReasonClass { words: \"it is \\\"too\\\" hot\", grpc_code: 10, http_status: 409, \
                retry: Retry::AfterAPersonActs, ends_a_supply: true, ends_an_enrolment: false, \
                counts_as_wrong_try: false, ends_by_order_only: false },";
    assert!(table.contains(line), "{table}");
}

#[test]
fn a_reason_that_does_not_say_what_it_means_does_not_build() {
    let with =
        |class: &str| table_with(&format!("REASON_NEW = 99 [(chargemesh.policy.v1.reason_class) = {{{class}}}];"));
    for (value, missing) in [
        (table_with("REASON_NEW = 99;"), "words"),
        (with("words: \"new\" http_status: 409 retry: NEVER"), "grpc_code"),
        (with("words: \"new\" grpc_code: OK http_status: 409 retry: NEVER"), "grpc_code"),
        (with("words: \"new\" grpc_code: ABORTED retry: NEVER"), "http_status"),
        (with("words: \"new\" grpc_code: ABORTED http_status: 200 retry: NEVER"), "http_status"),
        (with("words: \"new\" grpc_code: ABORTED http_status: 409"), "retry"),
    ] {
        let why = value.unwrap_err();
        assert!(why.starts_with(&format!("REASON_NEW does not say its {missing}")), "{why}");
    }
}
