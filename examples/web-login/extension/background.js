// Between the extension and the helper. `page` is where the browser says that the request comes from: the helper
// signs for no other origin.
"use strict";
chrome.runtime.onMessage.addListener((request, sender, answer) => {
  if (request?.method !== "login" || !sender.origin || sender.frameId !== 0) return false;
  const asked = { id: request.id, method: "login", page: sender.origin, params: request.params };
  chrome.runtime.sendNativeMessage("io.keyward.agent", asked, (signed) => {
    const failed = { error: { reason: "HELPER", message: chrome.runtime.lastError?.message ?? "no answer" } };
    answer(signed ?? failed);
  });
  return true;
});
