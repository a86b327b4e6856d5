class Plant: pass
def plant(): pass
