#include "format/parquet.h"

#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "format/parquet_pages.h"
#include "format/parquet_schema.h"
#include "format/quote.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

// The rows of one row group, assembled from its columns' levels as the Dremel paper does it
// (Melnik et al., VLDB 2010). Leaves of one struct or list must agree about what is there.
class RowAssembler {
 public:
  RowAssembler(std::span<const std::byte> bytes, const std::string& file,
               const ParquetFooter& footer, idx row_group, ParquetUse& use)
      : root_(footer.root) {
    const ParquetRowGroup& group = footer.row_groups[static_cast<std::size_t>(row_group)];
    for (std::size_t i = 0; i < footer.leaves.size(); ++i) {
      columns_.push_back(std::make_unique<ParquetColumn>(bytes, file, *footer.leaves[i],
                                                         group.chunks[i], row_group, use));
    }
  }

  Json ReadRow() {
    for (const auto& column : columns_) {
      if (column->repetition() != 0) column->Refuse("has fewer rows than its row group");
    }
    Json row = Struct(root_);
    for (const auto& column : columns_) {
      if (column->repetition() > 0) column->Refuse("does not agree with its neighbours");
    }
    return row;
  }

  void ExpectEnd() const {
    for (const auto& column : columns_) {
      if (column->repetition() != -1) column->Refuse("has more rows than its row group");
    }
  }

 private:
  Json Read(const ParquetNode& node) {
    ParquetColumn& lead = *columns_[node.first_leaf];
    if (node.kind == ParquetNode::Kind::kLeaf) {
      // Its parent is there, so it is there too, or null.
      if (lead.definition() < node.level - (node.nullable ? 1 : 0)) {
        lead.Refuse("does not agree with its neighbours");
      }
      return lead.Take();
    }
    if (lead.definition() < node.level) {
      SkipAll(node);
      return nullptr;
    }
    return node.kind == ParquetNode::Kind::kStruct ? Struct(node) : List(node);
  }

  Json Struct(const ParquetNode& node) {
    Json object = Json::object();
    auto& fields = object.get_ref<Json::object_t&>();
    fields.reserve(node.children.size());
    for (const ParquetNode& child : node.children) {
      // The names are different: no search for an equal one is needed.
      fields.emplace_back(child.name, Read(child));
    }
    return object;
  }

  Json List(const ParquetNode& node) {
    Json list = Json::array();
    const ParquetColumn& lead = *columns_[node.first_leaf];
    if (lead.definition() < node.item_level) {
      SkipAll(node);
      return list;
    }
    do {
      list.push_back(Read(node.children.front()));
      for (std::size_t i = node.first_leaf + 1; i < node.end_leaf; ++i) {
        if (columns_[i]->repetition() != lead.repetition()) {
          columns_[i]->Refuse("does not agree with its neighbours");
        }
      }
    } while (lead.repetition() == node.repetition);
    return list;
  }

  // A null, or an empty list: all its leaves say so.
  void SkipAll(const ParquetNode& node) {
    const int definition = columns_[node.first_leaf]->definition();
    // Above its parent's level, or the parent would not be there.
    const int least = node.level - (node.nullable ? 1 : 0);
    for (std::size_t i = node.first_leaf; i < node.end_leaf; ++i) {
      if (columns_[i]->definition() != definition || definition < least) {
        columns_[i]->Refuse("does not agree with its neighbours");
      }
      columns_[i]->Skip();
    }
  }

  const ParquetNode& root_;
  std::vector<std::unique_ptr<ParquetColumn>> columns_;
};

}  // namespace

ParquetFile ParquetFile::Open(const std::string& path, const ParquetLimits& limits) {
  auto file = std::make_shared<MappedFile>(path);
  ParquetFile parsed = Parse(file->bytes(), path, limits);
  parsed.file_ = std::move(file);
  return parsed;
}

ParquetFile ParquetFile::Parse(std::span<const std::byte> bytes, const std::string& name,
                               const ParquetLimits& limits) {
  ParquetFile file;
  file.name_ = name;
  file.bytes_ = bytes;
  file.limits_ = limits;
  auto footer = std::make_shared<ParquetFooter>();
  ReadParquetFooter(bytes, name, *footer);
  file.footer_ = std::move(footer);
  return file;
}

idx ParquetFile::num_rows() const { return footer_->num_rows; }
idx ParquetFile::num_row_groups() const { return static_cast<idx>(footer_->row_groups.size()); }

std::vector<std::string> ParquetFile::column_names() const {
  std::vector<std::string> names;
  for (const ParquetNode& child : footer_->root.children) names.push_back(child.name);
  return names;
}

void ParquetFile::ForEachRow(const std::function<void(idx, Json&&)>& row) const {
  ParquetUse use{limits_.values, limits_.pages};
  idx number = 0;
  for (idx g = 0; g < num_row_groups(); ++g) {
    RowAssembler assembler(bytes_, name_, *footer_, g, use);
    const idx rows = footer_->row_groups[static_cast<std::size_t>(g)].num_rows;
    for (idx i = 0; i < rows; ++i) row(number++, assembler.ReadRow());
    assembler.ExpectEnd();
  }
}

}  // namespace opo
