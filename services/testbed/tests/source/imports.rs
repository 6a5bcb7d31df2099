//! Files of a crate import each other in no circle, so that each can be understood after those that it names.
//!
//! An import counts towards the file that defines what is named, not towards one that passes it on. A file and those in
//! the folder of its name are one thing in several files: that it names them is no import, that they name it is.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    Item, UseTree, Visibility,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use crate::{
    assert_only_exceptions,
    tree::{self, SourceFile, is_for_tests},
};

/// Circles that may stay, each named by its first file, with why.
const EXCEPTIONS: &[(&str, &str)] = &[];

#[test]
fn files_import_each_other_in_no_circle() {
    let files: Vec<SourceFile> = tree::product().collect();
    let mut roots: BTreeMap<&str, Vec<&SourceFile>> = BTreeMap::new();
    for file in &files {
        roots.entry(&file.root).or_default().push(file);
    }
    let mut found = Vec::new();
    for files in roots.values() {
        let modules = Modules::of(files);
        let edges: Vec<Import> = files.iter().flat_map(|file| modules.imports(file)).collect();
        for circle in circles(&edges) {
            let inside = edges.iter().filter(|e| circle.contains(&e.from) && circle.contains(&e.to));
            let lines: Vec<String> =
                inside.map(|e| format!("    {}:{} imports {} of {}", e.from, e.line, e.what, e.to)).collect();
            found.push((circle.first().expect("a circle has files").clone(), lines.join("\n")));
        }
    }
    assert_only_exceptions("files that import each other in a circle", &found, EXCEPTIONS);
}

type Path = Vec<String>;

/// What a name stands for in a module.
enum Name {
    /// Defined in this file.
    Defined(String),
    /// Brought in by `use`.
    Used(Path),
}

/// The modules of one crate.
#[derive(Default)]
struct Modules {
    /// The file of each module; those that stand within a file have that one.
    files: BTreeMap<Path, String>,
    names: BTreeMap<(Path, String), Name>,
}

/// What a path leads to.
enum PathTarget {
    Module(Path),
    /// In this file.
    Item(String),
}

/// One file names something of another.
struct Import {
    from: String,
    to: String,
    what: String,
    line: usize,
}

impl Modules {
    fn of(files: &[&SourceFile]) -> Self {
        let mut modules = Self::default();
        for file in files {
            modules.add(file, file.module.clone(), &file.syntax.items);
        }
        modules
    }

    fn add(&mut self, file: &SourceFile, module: Path, items: &[Item]) {
        self.files.insert(module.clone(), file.path.clone());
        for item in items {
            let name = match item {
                Item::Const(item) => &item.ident,
                Item::Enum(item) => &item.ident,
                Item::Fn(item) => &item.sig.ident,
                Item::Static(item) => &item.ident,
                Item::Struct(item) => &item.ident,
                Item::Trait(item) => &item.ident,
                Item::Type(item) => &item.ident,
                Item::Union(item) => &item.ident,
                Item::Use(item) => {
                    for (path, name) in leaves(&item.tree) {
                        self.names.insert((module.clone(), name), Name::Used(path));
                    }
                    continue;
                }
                Item::Mod(item) => {
                    if let Some((_, inner)) = item.content.as_ref().filter(|_| !item.attrs.iter().any(is_for_tests)) {
                        self.add(file, [module.clone(), vec![item.ident.to_string()]].concat(), inner);
                    }
                    continue;
                }
                Item::ExternCrate(_) | Item::ForeignMod(_) | Item::Impl(_) | Item::Macro(_) | _ => continue,
            };
            self.names.insert((module.clone(), name.to_string()), Name::Defined(file.path.clone()));
        }
    }

    /// Where a path leads that is written in `module`; nothing where it leaves the crate.
    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<PathTarget> {
        let mut at: Path = module.to_vec();
        for (index, segment) in path.iter().enumerate() {
            match segment.as_str() {
                "crate" => at = Vec::new(),
                "self" => {}
                "super" => drop(at.pop()),
                name => {
                    let child = [at.clone(), vec![name.to_owned()]].concat();
                    match self.names.get(&(at.clone(), name.to_owned())) {
                        _ if self.files.contains_key(&child) => at = child,
                        Some(Name::Defined(file)) => return Some(PathTarget::Item(file.clone())),
                        Some(Name::Used(used)) if depth < 8 && used.as_slice() != path => {
                            match self.resolve(&at, used, depth + 1)? {
                                PathTarget::Module(module) => at = module,
                                item @ PathTarget::Item(_) => return Some(item),
                            }
                        }
                        // A name of a macro's making, or of another crate.
                        _ if index == 0 => return None,
                        _ => return self.files.get(&at).cloned().map(PathTarget::Item),
                    }
                }
            }
        }
        Some(PathTarget::Module(at))
    }

    fn imports(&self, file: &SourceFile) -> Vec<Import> {
        let mut paths = Paths { module: file.module.clone(), found: Vec::new() };
        paths.visit_file(&file.syntax);
        let resolved = paths.found.into_iter().filter_map(|(module, path, line)| {
            let to = match self.resolve(&module, &path, 0)? {
                PathTarget::Module(module) => self.files.get(&module)?.clone(),
                PathTarget::Item(file) => file,
            };
            (to != file.path && !is_below(&to, &file.path)).then(|| Import {
                from: file.path.clone(),
                to,
                what: path.join("::"),
                line,
            })
        });
        resolved.collect()
    }
}

/// Whether `path` is in the folder that belongs to `parent`.
fn is_below(path: &str, parent: &str) -> bool {
    let (folder, name) = parent.rsplit_once('/').unwrap_or_default();
    let owned = if ["mod.rs", "lib.rs", "main.rs"].contains(&name) { folder } else { parent.trim_end_matches(".rs") };
    path.strip_prefix(owned).is_some_and(|rest| rest.starts_with('/'))
}

/// Every path that a file's product code names, with the module that it stands in.
struct Paths {
    module: Path,
    found: Vec<(Path, Path, usize)>,
}

impl<'a> Visit<'a> for Paths {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if !item.attrs.iter().any(is_for_tests) {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        if !item.attrs.iter().any(is_for_tests) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        if !item.attrs.iter().any(is_for_tests) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        if !item.attrs.iter().any(is_for_tests) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_field(&mut self, field: &'a syn::Field) {
        if !field.attrs.iter().any(is_for_tests) {
            visit::visit_field(self, field);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        if matches!(item.vis, Visibility::Inherited) && !item.attrs.iter().any(is_for_tests) {
            let line = item.span().start().line;
            self.found.extend(leaves(&item.tree).into_iter().map(|(path, _)| (self.module.clone(), path, line)));
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if path.segments.len() > 1 && path.leading_colon.is_none() {
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.found.push((self.module.clone(), names, path.span().start().line));
        }
        visit::visit_path(self, path);
    }
}

/// Each path of a `use`, with the name that it has afterwards; of a glob, the module.
fn leaves(tree: &UseTree) -> Vec<(Path, String)> {
    match tree {
        UseTree::Path(path) => {
            let first = path.ident.to_string();
            let below = leaves(&path.tree).into_iter();
            below
                .map(|(rest, name)| {
                    let name = if name == "self" { first.clone() } else { name };
                    ([vec![first.clone()], rest].concat(), name)
                })
                .collect()
        }
        UseTree::Name(name) if name.ident == "self" => vec![(Vec::new(), "self".to_owned())],
        UseTree::Name(name) => vec![(vec![name.ident.to_string()], name.ident.to_string())],
        UseTree::Rename(name) => vec![(vec![name.ident.to_string()], name.rename.to_string())],
        UseTree::Glob(_) => vec![(Vec::new(), "*".to_owned())],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
    }
}

/// Sets of files of which each reaches every other, the files of each in order.
fn circles(edges: &[Import]) -> Vec<Vec<String>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for edge in edges {
        next.entry(&edge.from).or_default().insert(&edge.to);
    }
    let reached = |from: &str| {
        let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            let new = next.get(file).into_iter().flatten().filter(|to| reached.insert(**to));
            open.extend(new.copied().collect::<Vec<_>>());
        }
        reached
    };
    let reach: BTreeMap<&str, BTreeSet<&str>> = next.keys().map(|file| (*file, reached(file))).collect();
    let mut found: Vec<Vec<String>> = Vec::new();
    for (file, reached) in &reach {
        let circle = reached.iter().filter(|other| reach.get(**other).is_some_and(|back| back.contains(file)));
        let circle: Vec<String> = circle.map(|other| (*other).to_owned()).collect();
        if circle.len() > 1 && circle.contains(&(*file).to_owned()) && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}
