//! How much product code each crate has: lines with code on them, without tests, comments and blank lines.
//!
//! `make lines` prints it, of this workspace or of the one at `CHARGEMESH_SOURCE`.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute,
    visit::{self, Visit},
};

use crate::tree::{self, SourceFile, is_for_tests};

#[test]
fn product_lines_are_counted_by_crate() {
    let mut by_package: BTreeMap<String, usize> = BTreeMap::new();
    for file in tree::product() {
        *by_package.entry(file.package.clone()).or_default() += lines_of(&file);
    }
    for (package, lines) in &by_package {
        println!("{lines:>7}  {package}");
    }
    println!("{:>7}  together", by_package.values().sum::<usize>());
    assert!(by_package.values().all(|lines| *lines > 0), "a crate without code: {by_package:?}");
}

#[test]
fn neither_comments_nor_blank_lines_nor_tests_count() {
    let text = "//! Why.\n\nuse a::b;\n\n/// What.\n#[derive(Debug)]\nstruct A {\n    // a comment\n    b: u8, // and one\n}\n\
                /* more\n of it */\nconst TEXT: &str = \"one\ntwo\";\n\n#[cfg(test)]\nmod tests {\n    fn a() {}\n}\n";
    let file = SourceFile {
        path: String::new(),
        package: String::new(),
        root: String::new(),
        module: Vec::new(),
        is_test: false,
        text: text.to_owned(),
        syntax: syn::parse_file(text).expect("it is Rust"),
    };
    assert_eq!(lines_of(&file), 7);
}

fn lines_of(file: &SourceFile) -> usize {
    let tokens: TokenStream = file.text.parse().expect("it was parsed before");
    let mut lines = BTreeSet::new();
    collect(tokens, &file.text.lines().collect::<Vec<_>>(), &mut lines);
    let mut tests = Tests::default();
    tests.visit_file(&file.syntax);
    tests.0.iter().for_each(|(first, last)| lines.retain(|line| line < first || line > last));
    lines.len()
}

/// The lines that tokens stand on. A documentation comment is an attribute to the compiler: it begins with a slash.
fn collect(tokens: TokenStream, text: &[&str], lines: &mut BTreeSet<usize>) {
    for token in tokens {
        let (start, end) = (token.span().start(), token.span().end());
        let line = text.get(start.line - 1).copied().unwrap_or_default();
        let source: String = line.chars().skip(start.column).take(2).collect();
        if source == "//" || source == "/*" {
            continue;
        }
        if let TokenTree::Group(group) = token {
            lines.extend([start.line, end.line]);
            collect(group.stream(), text, lines);
        } else {
            lines.extend(start.line..=end.line);
        }
    }
}

/// First and last line of everything that only tests compile.
#[derive(Default)]
struct Tests(Vec<(usize, usize)>);

impl Tests {
    /// Whether it is for tests alone; then it is kept.
    fn keep(&mut self, attributes: &[Attribute], item: &impl syn::spanned::Spanned) -> bool {
        let is_test = attributes.iter().any(is_for_tests);
        if is_test {
            self.0.push((item.span().start().line, item.span().end().line));
        }
        is_test
    }
}

impl<'a> Visit<'a> for Tests {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Enum(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Static(_) | syn::Item::Trait(_) | syn::Item::Type(_) | _ => &Vec::new(),
        };
        if !self.keep(attributes, item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        if !self.keep(&item.attrs, item) {
            visit::visit_impl_item_fn(self, item);
        }
    }
}
