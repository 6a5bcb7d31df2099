//! No type of the product has more than 25 methods or 10 fields: past that, a second type hides in it.

use std::collections::BTreeMap;

use syn::{
    Attribute, Fields, ImplItem, Meta, TraitItem, Type,
    visit::{self, Visit},
};

use crate::{
    assert_only_exceptions,
    tree::{self, is_for_tests},
};

const METHODS: usize = 25;
const FIELDS: usize = 10;

/// Types that may be larger, each with why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("Summary", "the flat JSON object and table of a replay's result, read by programs"),
    ("NetworkStatus", "the flat JSON object of `up.json`, read by programs"),
    ("EngineStatus", "the flat JSON object of the engine's `status` command, read by programs"),
    ("MonitorStatus", "the flat JSON object of the monitor's `status` command, read by programs"),
    ("SupplyStatus", "the part of the engine's `status` about a supply, a flat JSON object"),
    ("CentralSettings", "a field for each setting of Central's core, with its default beside it"),
    ("EngineSettings", "a field for each setting of an engine's core"),
    ("Record", "the durable state of a charging point, a field for each column of its row"),
    ("Session", "the durable state of a session, a field for each column of its row"),
];

/// Derives of command line settings and of database rows, which have a field for each flag or column.
const WIDE: [&str; 7] = ["Args", "Parser", "Queryable", "Insertable", "Selectable", "AsChangeset", "Identifiable"];

/// Types that are still to be split: the list only shrinks.
const TO_SPLIT: &[&str] = &[
    "ChargePoint",
    "DecisionBuilder",
    "EventLoop",
    "LiveState",
    "Point",
    "SharedState",
    "Engine",
    "JournalQueue",
    "Monitor",
    "Trips",
    "Enrollee",
    "LinkSession",
    "Peer",
    "IdentityService",
];

#[test]
fn no_type_has_more_than_25_methods_or_10_fields() {
    let mut types: BTreeMap<(String, String), TypeSize> = BTreeMap::new();
    for file in tree::product() {
        let mut sizes = Sizes::default();
        sizes.visit_file(&file.syntax);
        for (name, size) in sizes.0 {
            let whole = types.entry((file.package.clone(), name)).or_default();
            whole.methods += size.methods;
            whole.fields = whole.fields.max(size.fields);
        }
    }
    let large = types.into_iter().filter(|(_, size)| size.methods > METHODS || size.fields > FIELDS);
    let found: Vec<_> = large
        .map(|((package, name), size)| {
            (name, format!("    {} methods and {} fields in {package}", size.methods, size.fields))
        })
        .collect();
    let to_split = TO_SPLIT.iter().map(|name| (*name, "still to be split"));
    let exceptions: Vec<_> = EXCEPTIONS.iter().copied().chain(to_split).collect();
    assert_only_exceptions("types that are too large; find the second type in each", &found, &exceptions);
}

#[derive(Clone, Copy, Default)]
struct TypeSize {
    methods: usize,
    fields: usize,
}

/// Methods (of a type's own, not of traits that it implements) and fields by type, as far as one file has them.
#[derive(Default)]
struct Sizes(BTreeMap<String, TypeSize>);

impl Sizes {
    fn count_fields(&mut self, name: &syn::Ident, attributes: &[Attribute], fields: &Fields) {
        if !attributes.iter().any(derives_wide) {
            let size = self.0.entry(name.to_string()).or_default();
            size.fields = size.fields.max(fields.len());
        }
    }
}

fn derives_wide(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else { return false };
    let tokens = list.tokens.to_string();
    list.path.is_ident("derive") && tokens.split(|c: char| !c.is_alphanumeric()).any(|word| WIDE.contains(&word))
}

impl<'a> Visit<'a> for Sizes {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if !item.attrs.iter().any(is_for_tests) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_struct(&mut self, item: &'a syn::ItemStruct) {
        self.count_fields(&item.ident, &item.attrs, &item.fields);
    }

    fn visit_item_enum(&mut self, item: &'a syn::ItemEnum) {
        for variant in &item.variants {
            self.count_fields(&item.ident, &item.attrs, &variant.fields);
        }
    }

    fn visit_item_trait(&mut self, item: &'a syn::ItemTrait) {
        let methods = item.items.iter().filter(|item| matches!(item, TraitItem::Fn(_))).count();
        self.0.entry(item.ident.to_string()).or_default().methods += methods;
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        let Type::Path(of) = &*item.self_ty else { return };
        let Some(name) = of.path.segments.last().filter(|_| item.trait_.is_none()) else { return };
        if item.attrs.iter().any(is_for_tests) {
            return;
        }
        let methods = item
            .items
            .iter()
            .filter(|item| matches!(item, ImplItem::Fn(method) if !method.attrs.iter().any(is_for_tests)));
        self.0.entry(name.ident.to_string()).or_default().methods += methods.count();
    }
}
