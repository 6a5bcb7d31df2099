//! The table of reasons: the option `reason_class` of every value of `Reason` as Rust.

use std::fmt::Write as _;

use prost_reflect::{DescriptorPool, DynamicMessage, EnumDescriptor, Kind, ReflectMessage as _};

type BuildError = Box<dyn std::error::Error>;

const REASON: &str = "chargemesh.link.v1.Reason";
const OPTION: &str = "chargemesh.policy.v1.reason_class";

/// A `match` over all reasons.
///
/// # Errors
/// Where a value does not say what it means.
pub(crate) fn table(pool: &DescriptorPool) -> Result<String, BuildError> {
    let reasons = pool.get_enum_by_name(REASON).ok_or("there is no enum Reason")?;
    let option = pool.get_extension_by_name(OPTION).ok_or("there is no option reason_class")?;
    let mut arms = String::new();
    for value in reasons.values() {
        let options = value.options();
        let class = options.get_extension(&option);
        let class = class.as_message().ok_or("reason_class is not a message")?;
        let fields = fields(class).map_err(|missing| {
            format!("{} does not say its {missing}: give it the option {OPTION} in reason.proto", value.name())
        })?;
        writeln!(arms, "            Self::{} => &ReasonClass {{ {fields} }},", variant(&reasons, value.name()))?;
    }
    Ok(format!(
        "impl Reason {{\n    fn class(self) -> &'static ReasonClass {{\n        match self {{\n{arms}        }}\n    }}\n}}\n"
    ))
}

/// The fields of a `ReasonClass`, or the one that is missing. Flags are false where they are not given.
fn fields(class: &DynamicMessage) -> Result<String, &'static str> {
    let words = class.get_field_by_name("words").and_then(|v| v.as_str().map(str::to_owned));
    let words = words.filter(|words| !words.is_empty()).ok_or("words")?;
    let (code, _) = value_of(class, "grpc_code").ok_or("grpc_code")?;
    let http = class.get_field_by_name("http_status").and_then(|v| v.as_u32());
    let http = http.filter(|status| (400..600).contains(status)).ok_or("http_status (400 to 599)")?;
    let (_, retry) = value_of(class, "retry").ok_or("retry")?;
    let flag = |name: &str| class.get_field_by_name(name).and_then(|v| v.as_bool()).unwrap_or(false);
    Ok(format!(
        "words: {words:?}, grpc_code: {code}, http_status: {http}, retry: Retry::{}, ends_a_supply: {}, \
         ends_an_enrolment: {}, counts_as_wrong_try: {}, ends_by_order_only: {}",
        camel_case(&retry),
        flag("ends_a_supply"),
        flag("ends_an_enrolment"),
        flag("counts_as_wrong_try"),
        flag("ends_by_order_only"),
    ))
}

/// Number and name of an enum field; nothing where it has its zero value, which says nothing.
fn value_of(class: &DynamicMessage, field: &str) -> Option<(i32, String)> {
    let Kind::Enum(kind) = class.descriptor().get_field_by_name(field)?.kind() else { return None };
    let number = class.get_field_by_name(field)?.as_enum_number()?;
    kind.get_value(number).filter(|_| number != 0).map(|value| (number, value.name().to_owned()))
}

/// As prost names it.
fn variant(kind: &EnumDescriptor, value: &str) -> String {
    let prefix = format!("{}_", kind.name().to_ascii_uppercase());
    camel_case(value.strip_prefix(&prefix).unwrap_or(value))
}

fn camel_case(upper: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at(1.min(word.len()));
        format!("{}{}", first.to_ascii_uppercase(), rest.to_ascii_lowercase())
    };
    upper.split('_').map(word).collect()
}
