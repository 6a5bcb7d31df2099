//! One name, one meaning: no two types of the workspace have the same name, tests included. The messages of `proto` are
//! named in their packages, and aside.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    Ident,
    visit::{self, Visit},
};

use crate::{assert_only_exceptions, tree};

/// Names that several types may have, each with why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("Config", "what the command line gives a role; each crate's `run` takes its own"),
    ("Error", "each crate's own error, by Rust's habit"),
];

#[test]
fn a_type_name_stands_for_one_thing_in_the_whole_workspace() {
    // A set, since one file may be a module of two crates.
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in tree::all() {
        let mut types = Types::default();
        types.visit_file(&file.syntax);
        for name in types.0 {
            let line = name.span().start().line;
            places.entry(name.to_string()).or_default().insert(format!("    {}:{line}", file.path));
        }
    }
    let found = places.into_iter().filter(|(_, places)| places.len() > 1);
    let found: Vec<_> = found.map(|(name, places)| (name, places.into_iter().collect::<Vec<_>>().join("\n"))).collect();
    assert_only_exceptions("types with the same name; give each a name of its own", &found, EXCEPTIONS);
}

/// Every type that a file defines, whatever it stands in; associated types name a trait's, not a new one.
#[derive(Default)]
struct Types(Vec<Ident>);

impl<'a> Visit<'a> for Types {
    fn visit_item_struct(&mut self, item: &'a syn::ItemStruct) {
        self.0.push(item.ident.clone());
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'a syn::ItemEnum) {
        self.0.push(item.ident.clone());
        visit::visit_item_enum(self, item);
    }

    fn visit_item_union(&mut self, item: &'a syn::ItemUnion) {
        self.0.push(item.ident.clone());
        visit::visit_item_union(self, item);
    }

    fn visit_item_trait(&mut self, item: &'a syn::ItemTrait) {
        self.0.push(item.ident.clone());
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'a syn::ItemType) {
        self.0.push(item.ident.clone());
        visit::visit_item_type(self, item);
    }
}
