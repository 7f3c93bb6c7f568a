// Chat templates: the Jinja source that comes with a model, run by a subset of our own. A construct
// outside the subset is an error that names it and its line. Time, output and recursion are
// bounded.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace opo {

class ChatTemplate {
 public:
  // Parses at once; throws Error(kInput) naming construct and line. `name` stands for the source.
  explicit ChatTemplate(const std::string& source, const std::string& name = "chat_template");
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // `messages`: an array of {"role", "content", ...}; `variables`: further names (bos_token,
  // eos_token, tools, ...). Throws Error(kInput) with the template's own words where it refuses
  // (raise_exception). Whitespace rules are those of transformers: trim_blocks, lstrip_blocks.
  std::string Render(const nlohmann::ordered_json& messages, bool add_generation_prompt,
                     const nlohmann::ordered_json& variables) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace opo
