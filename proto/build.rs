//! Compiles the contracts without `protoc`, keeps their descriptors for reflection, and turns the policy option of
//! every method and the class of every reason into tables.

#[path = "build/reasons.rs"]
mod reasons;

use std::{env, fmt::Write as _, fs, path::PathBuf};

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, Value};

const ROOT: &str = "chargemesh";

/// Tickets have a JSON form of their own: drivers keep it on disk, and events carry it. A field that is missing, because
/// an earlier release wrote the ticket, has its default.
const TICKET_JSON: &str = "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]";

/// Bytes as in protobuf's JSON.
const BASE64: &str = "#[serde(with = \"crate::ticket::base64_text\")]";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    println!("cargo:rerun-if-changed=build");
    let mut files = Vec::new();
    find(ROOT.into(), &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // With the extensions, which a decoded FileDescriptorSet of prost's would lose.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("policy.rs"), policies(&compiler.descriptor_pool())?)?;
    fs::write(out.join("reasons.rs"), reasons::table(&compiler.descriptor_pool())?)?;

    let services = env::var_os("CARGO_FEATURE_SERVICES").is_some();
    let mut config = tonic_prost_build::Config::new();
    // So that a message finds its descriptor, which its JSON follows from.
    config.enable_type_names();
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .bytes(".chargemesh.link.v1.SealedReading.ciphertext")
        .type_attribute(".chargemesh.link.v1.Ticket", TICKET_JSON)
        .type_attribute(".chargemesh.link.v1.Correction", TICKET_JSON)
        .type_attribute(".chargemesh.link.v1.SignedDocument", TICKET_JSON)
        .field_attribute(".chargemesh.link.v1.SignedDocument.document", BASE64)
        .field_attribute(".chargemesh.link.v1.SignedDocument.signature", BASE64)
        .field_attribute(".chargemesh.link.v1.Ticket.signed", "#[serde(skip_serializing_if = \"Option::is_none\")]")
        .field_attribute(".chargemesh.link.v1.Ticket.reason", "#[serde(with = \"crate::reason::code_text\")]")
        .field_attribute(".chargemesh.link.v1.Ticket.corrections", "#[serde(skip_serializing_if = \"Vec::is_empty\")]")
        .compile_fds_with_config(prost_types(&compiler.encode_file_descriptor_set())?, config)?;
    Ok(())
}

fn find(dir: PathBuf, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            find(path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

fn prost_types(bytes: &[u8]) -> Result<prost_types::FileDescriptorSet, prost::DecodeError> {
    prost_types::FileDescriptorSet::decode(bytes)
}

fn policies(pool: &DescriptorPool) -> Result<String, Box<dyn std::error::Error>> {
    let option = pool.get_extension_by_name("chargemesh.policy.v1.policy").ok_or("no policy option")?;
    let mut table = String::from("pub const POLICIES: &[Policy] = &[\n");
    for service in pool.services() {
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            let options = method.options();
            let value = options.get_extension(&option);
            let policy = value.as_message().ok_or("policy is not a message")?;
            let callers = callers(policy)?;
            if !options.has_extension(&option) || callers.is_empty() {
                return Err(format!("{path} has no callers in its policy: give it a policy option").into());
            }
            writeln!(
                table,
                "    Policy {{ path: {path:?}, callers: &[{}], idempotent: {}, request_id: {} }},",
                callers.join(", "),
                flag(policy, "idempotent"),
                flag(policy, "request_id"),
            )?;
        }
    }
    table.push_str("];\n");
    Ok(table)
}

fn callers(policy: &DynamicMessage) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let field = policy.get_field_by_name("callers").ok_or("policy has no callers")?;
    let numbers = field.as_list().ok_or("callers is not a list")?.iter().filter_map(Value::as_enum_number);
    let kind = policy.descriptor().parent_pool().get_enum_by_name("chargemesh.policy.v1.Caller").ok_or("no Caller")?;
    numbers
        .map(|n| {
            let value = kind.get_value(n).filter(|_| n != 0).ok_or(format!("caller {n} is not one"))?;
            let name = value.name().trim_start_matches("CALLER_").to_ascii_lowercase();
            let (first, rest) = name.split_at(1);
            Ok(format!("Caller::{}{rest}", first.to_ascii_uppercase()))
        })
        .collect()
}

fn flag(policy: &DynamicMessage, name: &str) -> bool {
    policy.get_field_by_name(name).and_then(|v| v.as_bool()).unwrap_or(false)
}
