//! The public contract explains itself: whoever describes it by reflection reads a comment on everything (SPEC 7.2). And
//! it stands alone: nothing in it is a message of the link.

use std::collections::HashSet;

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Field numbers of the descriptors, of which the path of a comment consists.
mod part {
    pub(super) const MESSAGE: i32 = 4;
    pub(super) const ENUM: i32 = 5;
    pub(super) const SERVICE: i32 = 6;
    pub(super) const METHOD: i32 = 2;
    pub(super) const VALUE: i32 = 2;
    pub(super) const FIELD: i32 = 2;
    pub(super) const NESTED_MESSAGE: i32 = 3;
    pub(super) const NESTED_ENUM: i32 = 4;
    pub(super) const ONEOF: i32 = 8;
}

fn public_files() -> Vec<FileDescriptorProto> {
    let files = FileDescriptorSet::decode(proto::DESCRIPTORS).expect("the descriptors of this build").file;
    let packages = ["chargemesh.central.v1", "chargemesh.events.v1", "chargemesh.registry.v1", "chargemesh.weather.v1"];
    files.into_iter().filter(|file| packages.contains(&file.package())).collect()
}

/// What has no comment, by name.
struct Uncommented {
    commented: HashSet<Vec<i32>>,
    names: Vec<String>,
    seen: usize,
}

impl Uncommented {
    fn of(file: &FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let has_comment = |text: &str| !text.trim().is_empty();
        let commented =
            locations.filter(|at| has_comment(at.leading_comments()) || has_comment(at.trailing_comments()));
        let mut found = Self { commented: commented.map(|at| at.path.clone()).collect(), names: Vec::new(), seen: 0 };
        for (n, message) in (0..).zip(&file.message_type) {
            found.message(&[part::MESSAGE, n], file.package(), message);
        }
        for (n, one) in (0..).zip(&file.enum_type) {
            found.enumeration(&[part::ENUM, n], file.package(), one);
        }
        for (n, service) in (0..).zip(&file.service) {
            let name = format!("{}.{}", file.package(), service.name());
            found.check(&[part::SERVICE, n], &name);
            for (m, method) in (0..).zip(&service.method) {
                found.check(&[part::SERVICE, n, part::METHOD, m], &format!("{name}.{}", method.name()));
            }
        }
        found
    }

    fn message(&mut self, path: &[i32], of: &str, message: &DescriptorProto) {
        let name = format!("{of}.{}", message.name());
        self.check(path, &name);
        for (n, field) in (0..).zip(&message.field) {
            self.check(&[path, &[part::FIELD, n]].concat(), &format!("{name}.{}", field.name()));
        }
        for (n, oneof) in (0..).zip(&message.oneof_decl) {
            // An optional field is in a oneof of its own that nobody wrote.
            if !oneof.name().starts_with('_') {
                self.check(&[path, &[part::ONEOF, n]].concat(), &format!("{name}.{}", oneof.name()));
            }
        }
        for (n, nested) in (0..).zip(&message.nested_type) {
            self.message(&[path, &[part::NESTED_MESSAGE, n]].concat(), &name, nested);
        }
        for (n, nested) in (0..).zip(&message.enum_type) {
            self.enumeration(&[path, &[part::NESTED_ENUM, n]].concat(), &name, nested);
        }
    }

    fn enumeration(&mut self, path: &[i32], of: &str, one: &EnumDescriptorProto) {
        let name = format!("{of}.{}", one.name());
        self.check(path, &name);
        for (n, value) in (0..).zip(&one.value) {
            self.check(&[path, &[part::VALUE, n]].concat(), &format!("{name}.{}", value.name()));
        }
    }

    fn check(&mut self, path: &[i32], name: &str) {
        self.seen += 1;
        if !self.commented.contains(path) {
            self.names.push(name.to_owned());
        }
    }
}

#[test]
fn everything_in_the_public_contract_has_a_comment_spec_7_2() {
    let found: Vec<_> = public_files().iter().map(Uncommented::of).collect();
    let names: Vec<_> = found.iter().flat_map(|found| &found.names).collect();
    assert!(names.is_empty(), "{} without a comment: {names:#?}", names.len());
    let seen: usize = found.iter().map(|found| found.seen).sum();
    assert!(seen > 300, "only {seen} were looked at");
}

#[test]
fn the_public_contract_refers_to_nothing_of_the_link() {
    let files = public_files();
    assert!(files.len() > 8, "only {} files", files.len());
    for file in &files {
        let of_link: Vec<_> = file.dependency.iter().filter(|name| name.starts_with("chargemesh/link/")).collect();
        assert!(of_link.is_empty(), "{} imports {of_link:?}", file.name());
    }
}

#[test]
fn every_list_has_pages_and_every_time_is_a_timestamp_spec_7_3() {
    let messages = public_files().into_iter().flat_map(|file| file.message_type);
    for message in messages {
        let has = |name: &str| message.field.iter().any(|field| field.name() == name);
        let is_list = message.name().starts_with("List") || message.name().starts_with("Statistics");
        if is_list && message.name().ends_with("Request") {
            assert!(has("page_size") && has("page_token"), "{} has no pages", message.name());
        } else if is_list {
            assert!(has("next_page_token"), "{} does not say where the next page begins", message.name());
        }
        let times = message.field.iter().filter(|field| field.name().ends_with("_time") || field.name() == "time");
        for time in times {
            assert_eq!(time.type_name(), ".google.protobuf.Timestamp", "{}.{}", message.name(), time.name());
        }
        let bare = message.field.iter().find(|field| field.name().ends_with("_ms") || field.name().ends_with("_s"));
        assert!(bare.is_none(), "{}.{} is no Timestamp or Duration", message.name(), bare.map_or("", |f| f.name()));
    }
}
